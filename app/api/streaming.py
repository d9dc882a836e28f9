"""Streaming: reads a text per line and answers with its entities, in order and in constant memory.

Three coroutines share the work: one reads lines and submits them in groups, one collects the answers in
order, one sends them. Reading waits for the engine. Answers wait for the client in a spool, so a client may
send everything before it reads.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.annotate import LeasedAnnotator
from app.api.arriving import FREE
from app.api.dialects.native import NativeAsk, ner_result, ner_result_gradually
from app.api.groups import Answers, Group, Groups
from app.api.lines import LineSplitter, Record, answer_line, line_limits, line_of, read_record
from app.api.room import Share
from app.api.spool import Spool
from app.api.statuses import STATUSES
from app.engine.decoding.entities import MANY, Prediction
from app.errors import ClientLeft, InferenceFailed, Kind, NerveError, NotReady

NDJSON = "application/x-ndjson"

_LINES_AT_ONCE = 1_000
"""Lines, blank ones included, that are read before other requests have a turn."""

_CHECK_SECONDS = 0.25
"""Seconds between two checks whether the stream was ended or the server shuts down."""

_FULL_SECONDS = 10.0
"""Seconds that a client may take nothing while its spool is full. A client that sends everything before it
reads would otherwise wait for the server for ever, and the server for it."""

_IDLE_SECONDS_DRAINING = 10.0
"""Seconds that a client may do nothing once the server shuts down."""

_LINGER_SECONDS = 10.0
"""Seconds that a client may go on sending after its stream was ended; closing the connection earlier could
lose the last lines of the answer."""


class Stream(Response):
    """Writes its answer while its request is still being read.

    Args:
        plain: each line is a text and not JSON.
    """

    def __init__(self, request: Request, ask: NativeAsk, plain: bool):
        super().__init__()
        state = request.app.state
        self._request, self._ask, self._plain = request, ask, plain
        self._settings, self._service, self._draining = state.settings, state.service, state.draining
        self._read_all, self._body_ended, self._finished = False, asyncio.Event(), False
        self._ended_by: NerveError | None = None
        self._records = self._failed = self._line = 0
        self._sending, self._alive = False, time.monotonic()
        self._splitter: LineSplitter
        self._annotator: LeasedAnnotator
        self._groups: Groups
        self._spool: Spool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read and answer the stream.

        Raises:
            NotFound, NotReady, VersionRefused, Unprocessable: no version can answer.
            ClientDisconnect: the client closed the connection, or read nothing for too long.
        """
        record, settings, state = scope["nerve"], self._settings, self._request.app.state
        with (
            await self._service.lease(self._ask, self._request.headers.get) as self._annotator,
            Spool(settings.stream_spool_bytes, state.spools, _FULL_SECONDS) as self._spool,
            Share(state.bodies) as of_line,
            Share(state.bodies) as of_texts,
        ):
            record.model, record.version = self._annotator.of
            self._annotator.check_labels()
            self._splitter = LineSplitter(line_limits(settings.max_text_chars, self._plain), of_line)
            try:
                async with asyncio.TaskGroup() as tasks:
                    self._groups = Groups(self._annotator, tasks, record.id, of_texts)
                    running = [
                        tasks.create_task(self._read(receive)),
                        tasks.create_task(self._watch()),
                    ]
                    tasks.create_task(self._collect())
                    # Reading starts before the answer, so a client that waits for 100 Continue gets it.
                    await asyncio.sleep(0)
                    await self._write(send)
                    for task in running:
                        task.cancel()
            except BaseExceptionGroup as several:
                self._tell(several.exceptions[0])
                raise several.exceptions[0] from None

    def _tell(self, error: BaseException) -> None:
        """Have the log tell how the stream ended first, since its status, 200, has been sent."""
        kind: Kind = error.kind if isinstance(error, NerveError) else "failed"
        if isinstance(error, ClientDisconnect):
            kind = "client_left"
        record = self._request.scope["nerve"]
        record.outcome = record.outcome or STATUSES[kind]

    # reading

    async def _read(self, receive: Receive) -> None:
        """Read lines and submit them until the body or the stream ends; then only watch the connection."""
        limit, lines = self._settings.max_text_chars, self._splitter
        number = 0
        while not self._body_ended.is_set() and not self._ended_by:
            arrived = lines.feed(await self._body(receive))
            if self._body_ended.is_set():
                arrived = chain(arrived, lines.end())
            group = Group()
            for line in arrived:
                number += 1
                if number % _LINES_AT_ONCE == 0:
                    await asyncio.sleep(0)
                record = read_record(number, line, self._plain, limit)
                if record is None:
                    continue
                self._groups.hold(record)
                if not group.has_room(record):
                    await self._start(group)
                    group = Group()
                if self._ended_by:
                    break
                group.add(record)
            await self._start(group)
        self._read_all = True
        self._groups.add_no_more()
        while True:
            await self._body(receive, until_ended=False)

    async def _body(self, receive: Receive, until_ended: bool = True) -> bytes:
        """Return the next piece of the body; empty if the stream was ended in the meantime.

        Args:
            until_ended: stop waiting when the stream is ended; else wait for the client.
        """
        message: Message | None = None
        while message is None:
            if until_ended and self._ended_by:
                return b""
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_SECONDS if until_ended else None):
                    message = await receive()
        if message["type"] != "http.request":
            if self._finished:  # uvicorn reports a disconnect also after the whole answer
                await asyncio.Event().wait()
            raise ClientDisconnect
        self._alive = time.monotonic()
        if not message.get("more_body", False):
            self._body_ended.set()
        body: bytes = message.get("body", b"")
        return body

    async def _start(self, group: Group) -> None:
        """Add a group to the queue as soon as there is room."""
        await self._groups.room_for(group)
        if group.records and not self._ended_by:
            self._groups.add(group)

    # collecting answers

    async def _collect(self) -> None:
        """Put the answers into the spool, in order, and then the last line."""
        try:
            while group := await self._groups.oldest():
                await self._bring(group, await group.answered())
        except NerveError as error:
            self._ended_by = error
            self._groups.clear()
        if self._ended_by:
            self._tell(self._ended_by)
        self._spool.put_last(self._last_line())

    async def _bring(self, group: Group, answers: Answers) -> None:
        """Put the answers of the oldest group into the spool, and count them.

        Raises:
            NotReady: the version is closed. InferenceFailed: its batches keep failing.
            TooLarge: there is no room for the answers. DiskFailed: they cannot be kept.
        """
        self._alive = time.monotonic()
        found = [answer for answer in answers if isinstance(answer, Prediction)]
        kept = self._annotator.kept(found)
        lines, texts = await self._lines(group, answers, kept)
        await self._spool.put(b"".join(lines))
        record = self._request.scope["nerve"]
        record.texts += len(texts)
        record.characters += sum(map(len, texts))
        self._records += len(lines)
        self._failed += len(lines) - len(texts)
        self._line = group.records[-1].line
        self._annotator.answered(texts, found, kept)
        self._groups.remove_oldest()
        if group.texts and not found and self._annotator.failing:
            name = "/".join(self._annotator.of)
            raise InferenceFailed(f"{name}: batches keep failing, and a new session takes its place")

    async def _lines(
        self, group: Group, answers: Answers, kept: Sequence[Prediction]
    ) -> tuple[list[bytes], list[str]]:
        """Return a line for each record, and the texts that were annotated. Other requests have their turn
        between many entities."""
        lines, texts, entities = [], [], 0
        left = iter(kept)
        for record, answer in zip(group.records, answers, strict=True):
            if isinstance(answer, NotReady):
                raise answer
            if isinstance(answer, NerveError):
                about = {"error": answer.message, "code": answer.code, "line": record.line}
            else:
                prediction = next(left)
                texts.append(record.text)
                entities += len(prediction.entities)
                if entities > MANY:
                    lines.append(await self._long_line(record, prediction))
                    entities = 0
                    continue
                about = ner_result(record.text, prediction, self._ask)
            lines.append(answer_line(about, record.id))
        return lines, texts

    async def _long_line(self, record: Record, prediction: Prediction) -> bytes:
        pieces = []
        for piece in ner_result_gradually(record.text, prediction, self._ask):
            pieces.append(piece)
            await asyncio.sleep(0)
        return line_of(b"".join(pieces), record.id)

    def _last_line(self) -> bytes:
        error = self._ended_by
        about: dict[str, Any] = {"done": error is None}
        if error:
            about |= {"error": f"{error.message}; go on after line {self._line}", "code": error.code}
        return answer_line(about | {"records": self._records, "failed": self._failed, "line": self._line})

    # sending

    async def _write(self, send: Send) -> None:
        """Send the content of the spool until its end."""
        model, version = self._annotator.of
        headers = {
            "content-type": NDJSON,
            "x-nerve-model": model,
            "x-nerve-version": version,
            "x-accel-buffering": "no",  # nginx would otherwise hold lines back
            "connection": "close",  # an ended stream may leave body unread
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._deliver(send, {"type": "http.response.start", "status": 200, "headers": raw})
        while block := await self._spool.take():
            await self._deliver(send, {"type": "http.response.body", "body": block, "more_body": True})
        if self._ended_by:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_SECONDS):
                    await self._body_ended.wait()
        self._finished = True
        await self._deliver(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _deliver(self, send: Send, message: Message) -> None:
        self._sending, self._alive = True, time.monotonic()
        await send(message)
        self._sending = False

    async def _watch(self) -> None:
        """End the stream when the server shuts down, or its client does nothing or does not end a line."""
        settings = self._settings
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            draining = self._draining.is_set()
            patience = settings.stream_idle_timeout
            if draining:
                patience = min(patience, _IDLE_SECONDS_DRAINING)
            now = time.monotonic()
            idle = now - self._alive > patience
            if idle and self._sending:
                raise ClientDisconnect
            if self._read_all or self._ended_by:
                continue
            if draining:
                self._ended_by = NotReady("the server is shutting down", "shutting_down")
            elif self._splitter.since and now - self._splitter.since > settings.body_timeout:
                self._ended_by = ClientLeft(
                    f"a line of more than {FREE} bytes was not there in {settings.body_timeout:g} s "
                    "(NERVE_BODY_TIMEOUT)",
                    "line_timeout",
                )
            elif idle and not self._groups:
                self._ended_by = ClientLeft(
                    f"nothing came for {patience:g} s (NERVE_STREAM_IDLE_TIMEOUT)", "stream_idle"
                )
