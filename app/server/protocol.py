"""Protocol is uvicorn's HTTP/1.1 protocol within limits of size and time, and writes an answer at once.

* What is no HTTP, too large or too slow is answered with our error body, after the answers that are due.
* The head and the body of an answer are written together; see `joining`.
* At the server's end a connection that waits is kept for a moment, as a request may be on its way.
"""

import asyncio
import logging
from typing import Any, Literal, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.middleware import new_request_id
from app.server.connections import Connections, Limits
from app.server.joining import Joining
from app.server.refusals import Refused, head_too_large, not_http, record_refusal, too_slow

log = logging.getLogger("nerve.request")

STATE = "connections"
"""The key of the process's `Connections` in the state that the application's lifespan returns."""

Wait = Literal["idle", "head", "body", "rest", "answer", "exchange", "linger", "work"]
"""What a connection waits for: a head's first byte, a head's end, a body, the rest of a body whose request
was answered, a caller that reads, or reads and sends, or leaves, and the application."""


class Protocol(HttpToolsProtocol):
    """Holds one connection."""

    transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self._all: Connections = app_state[STATE]
        self._limits: Limits = self._all.limits
        self._room = self._limits.head_bytes  # bytes that may still come outside of a body
        self._running: RequestResponseCycle | None = None
        self._refused: Refused | None = None  # it is answered after what is due
        self._deaf = False  # what still comes is not looked at
        self._last = False  # the next answer is the connection's last
        self._seen = 0  # headers of a request whose body has a parser of its own
        self._heads = self._received = 0
        self._wait: Wait = "idle"
        self._done = 0  # of what the connection waits for, when it began to wait
        self._waited = 0.0
        self._joining: Joining

    # the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joining = Joining(transport, self.loop, self._close)
        super().connection_made(cast(asyncio.Transport, self._joining))
        refused = self._all.add(self)
        if refused:
            self._refuse(refused)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        self._deaf = True
        super().connection_lost(exc)

    def make_room(self) -> None:
        """Close the connection, of which no request runs."""
        self._deaf = True
        self.transport.abort()

    def shutdown(self) -> None:
        """Close after the next answer; wait a moment for a request that may be on its way."""
        self._last = True
        self._wait = "work"  # it waits anew
        if self._running and not self._running.response_complete:
            self.cycle.keep_alive = False

    def _close(self) -> None:
        """Close, or wait for the caller to read the answer if its request is still coming: closing would
        make the system reset the connection and drop the answer."""
        if self._running and self._running.more_body and not self._all.too_many:
            self._linger()
        else:
            self._joining.close_now()

    def _linger(self) -> None:
        """Send what is to be sent, and wait for the caller to close."""
        self._deaf = True
        self._joining.end()
        self.flow.resume_reading()

    # what arrives

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        size = len(data)
        self._received += size
        if size < self._room:
            self._room -= size
            self._feed(data)
            return
        rest = memoryview(data)
        while rest and not self._deaf:
            piece, rest = rest[: self._room], rest[self._room :]
            self._room -= len(piece)
            self._feed(piece)
            if self._room <= 0 and not self._deaf:
                self._refuse(head_too_large(self._limits.head_bytes))

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse data; the parser calls the methods `on_…`."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                data = self._stay_with_http() + bytes(data[upgrade.args[0] :])
            except HttpParserError as error:
                cause = error.__context__
                self._refuse(cause if isinstance(cause, Refused) else not_http(error))
                return

    def _stay_with_http(self) -> bytes:
        """Have the body of a request parsed that would rather change the protocol, as HTTP clients of Java
        do: a server may ignore that, but this parser takes what follows the head for another protocol.

        Returns:
            A head for a new parser, which no one gets to see: only the body behind it counts.
        """
        framing = [h for h in self.headers if h[0] in (b"content-length", b"transfer-encoding")]
        self.parser = HttpRequestParser(self)
        if not framing:
            self.on_message_complete()
            return b""
        self._seen = len(self.headers)
        return b"\r\n".join([b"POST / HTTP/1.1", *(b"%s: %s" % header for header in framing), b"", b""])

    def on_message_begin(self) -> None:
        if self._seen:
            return
        if len(self.pipeline) >= self._limits.pipelined:
            raise Refused(
                429,
                "too_many_pipelined",
                f"more than {self._limits.pipelined} requests wait on one connection; read their answers "
                "before you send more",
                retry_after=1,
            )
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._seen:
            return
        self.url += url
        if len(self.url) > self._limits.target_bytes:
            raise Refused(
                414,
                "uri_too_long",
                f"the path and the query have more than {self._limits.target_bytes} bytes; send what is "
                "long in the body",
            )

    def on_headers_complete(self) -> None:
        if self._seen:
            del self.headers[self._seen :]
            self._seen = 0
            return
        super().on_headers_complete()
        self._room = self._limits.head_bytes
        self._heads += 1
        self._all.waiting.pop(self, None)
        if self._last:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._room = self._limits.head_bytes
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # its body comes yet
            return
        self._room = self._limits.head_bytes
        if self.cycle.response_complete:
            self.cycle.more_body = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._running is None or self._running.response_complete:  # else the next one has started
            if self._refused:
                self._answer(self._refused)
            elif not self._deaf:
                self._all.waiting[self] = None

    # refusals

    def _refuse(self, refused: Refused) -> None:
        """Answer what is due, then this, and close; listen no more."""
        self._deaf = True
        running, last = self._running, self.cycle
        if running is None or (running.response_complete and not running.more_body):
            self._answer(refused)
        elif running.response_complete or (running.response_started and running is last and last.more_body):
            self.transport.abort()  # its request was answered, and cannot be answered again
        elif running is last and running.more_body:
            running.disconnected = True
            running.message_event.set()
            self._answer(refused, of=running)
        else:
            if last.more_body:  # it waits, and will never be whole
                self.pipeline.popleft()
            self._refused = refused

    def _answer(self, refused: Refused, of: RequestResponseCycle | None = None) -> None:
        """Send a refusal and close.

        Args:
            of: the request that it answers; it is logged as one that was given up.
        """
        record: Any = of.scope.get("nerve") if of else None
        request_id = record.id if record else new_request_id()
        if not record:
            record_refusal(refused, request_id, self._all.metrics)
        self.transport.write(refused.answer(request_id, self.server_state.default_headers))
        if self._all.too_many:
            self._joining.close_now()
        else:
            self._linger()

    # time

    def check(self) -> None:
        """End the connection if it waited too long."""
        wait, done = self._waits_for()
        enough = self._limits.least_bytes if wait in ("body", "answer") else 1
        if wait != self._wait or done - self._done >= enough:
            self._wait, self._done, self._waited = wait, done, 0.0
            return
        self._waited += self._limits.every
        if self._waited < self._patience(wait):
            return
        if wait == "idle":
            self.make_room()
        elif wait == "head":
            self._refuse(too_slow("the head of the request", self._limits.head_seconds))
        elif wait == "body":
            self._refuse(too_slow(f"{enough} bytes of the body", self._limits.body_seconds))
        elif wait == "rest":
            self._linger()
        else:
            if wait != "linger":
                log.info("closed a connection whose caller did nothing for %.0f s", self._waited)
            self.transport.abort()

    def _waits_for(self) -> tuple[Wait, int]:
        """Return what the connection waits for, and how much of it has been done."""
        running, unsent = self._running, self.transport.get_write_buffer_size()
        ended = self.transport.is_closing()
        answered = ended or running is None or running.response_complete
        if unsent:
            sent = self._joining.written - unsent
            return ("answer", sent) if answered else ("exchange", sent + self._received)
        if ended:
            return "linger", 0
        if answered:
            if running and running.more_body:
                return "rest", self._heads
            return "idle" if self._room == self._limits.head_bytes else "head", self._heads
        ours = self.flow.read_paused or self.cycle.waiting_for_100_continue or self._deaf
        if self.cycle.more_body and not ours:
            return "exchange" if self.cycle.response_started else "body", self._received
        return "work", 0

    def _patience(self, wait: Wait) -> float:
        limits = self._limits
        match wait:
            case "idle":
                return limits.linger_seconds if self._last else limits.head_seconds
            case "head" | "rest":
                return limits.head_seconds
            case "body":
                return limits.body_seconds
            case "answer":
                return limits.answer_seconds
            case "exchange":
                return limits.exchange_seconds
            case "linger":
                return limits.linger_seconds
            case "work":
                return float("inf")
