"""Streams: records in, a line each, and their entities out, in order and in constant memory.

Three coroutines share the work: one reads lines and has them annotated, several groups at a time; one
takes the answers in order; one sends them. Reading waits for the engine, and answers wait for the client
in a spool: so a client that reads nothing before it has sent everything gets its answers all the same.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.lines import LineSplitter, Record, answer_line, longest_line, read_record
from app.api.requests import check_labels, render_result
from app.api.responses import count_answers
from app.api.schemas import NerOptions
from app.api.spool import Spool
from app.engine.decoding.entities import Prediction
from app.errors import Busy, InferenceFailed, NerveError, NotReady
from app.versions.loading.loaded import LoadedVersion
from app.versions.rollout.manager import Lent

log = logging.getLogger("nerve.stream")

NDJSON = "application/x-ndjson"

_GROUP_TEXTS, _GROUP_CHARACTERS = 32, 32_768
"""Most texts and characters that are given to the engine as one, unless a single text is longer."""

_GROUPS, _CHARACTERS = 8, 262_144
"""Most of both that are in the engine at a time."""

_LINES_AT_ONCE = 1_000
"""Lines that are read before other requests have a turn, be they blank."""

_LOOK_SECONDS = 0.25
"""How often a stream looks whether the server shuts down."""

_FULL_SECONDS = 10.0
"""How long a client may take nothing while its spool is full. One that would first send everything waits
for us as we wait for it."""

_STALL_SECONDS, _STALL_SECONDS_DRAINING = 300.0, 10.0
"""How long a client may neither take nor send anything while there are answers for it."""

_LINGER_SECONDS = 10.0
"""How long a client may go on sending after its stream was ended: closing before it stops could cost it
the last lines."""


_Answers = list[Prediction | NerveError]


class _Unjudged(Exception):
    """How a stream gives its version back: what it took says nothing of a canary's latency."""

    status = 0


@contextmanager
def _unjudged(lent: Lent) -> Iterator[LoadedVersion]:
    try:
        yield lent.__enter__()
    finally:
        lent.__exit__(_Unjudged, _Unjudged(), None)


@dataclass
class _Group:
    """Lines that are answered together."""

    records: list[Record] = field(default_factory=list)
    size: int = 0
    answers: "asyncio.Task[_Answers] | None" = None

    @property
    def texts(self) -> list[str]:
        return [record.text for record in self.records if not record.error]

    def has_room(self, record: Record) -> bool:
        fits = self.size + _size(record) <= _GROUP_CHARACTERS
        return not self.records or (fits and len(self.records) < _GROUP_TEXTS)

    def add(self, record: Record) -> None:
        self.records.append(record)
        self.size += _size(record)


class Stream(Response):
    """An answer that is written while its request is still being read."""

    def __init__(self, request: Request, options: NerOptions, plain: bool):
        super().__init__()
        state = request.app.state
        self._request, self._options, self._plain = request, options, plain
        self._settings, self._manager, self._metrics = state.settings, state.manager, state.metrics
        self._draining = state.draining
        self._groups: deque[_Group] = deque()
        self._characters = 0
        self._grown, self._shrunk = asyncio.Event(), asyncio.Event()
        self._read_all, self._body_ended, self._finished = False, asyncio.Event(), False
        self._ended_by: NerveError | None = None
        self._records = self._failed = self._line = 0
        self._sending, self._alive = False, time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Raises:
            NotFound, NotReady, VersionRefused, Unprocessable: there is nothing to answer with.
            ClientDisconnect: the client hung up, or took nothing for long.
        """
        settings = self._settings
        with (
            _unjudged(await self._lend()) as self._served,
            Spool(settings.stream_spool_bytes, _FULL_SECONDS) as self._spool,
        ):
            manifest = self._served.manifest
            record = scope["nerve"]
            self._of = record.model, record.version = manifest.name, str(manifest.version)
            check_labels(self._options.labels, manifest.labels)
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    running = [
                        self._tasks.create_task(self._read(receive)),
                        self._tasks.create_task(self._watch()),
                    ]
                    self._tasks.create_task(self._collect())
                    # The body is asked for before the answer begins: so whoever waits for a 100 gets it.
                    await asyncio.sleep(0)
                    await self._write(send)
                    for task in running:
                        task.cancel()
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None

    async def _lend(self) -> Lent:
        headers, options = self._request.headers, self._options
        name = options.model or self._settings.default_model

        def key(sticky: str) -> str | None:  # a stream has many texts, and one version
            return None if sticky == "text" else headers.get(sticky)

        while True:
            lent: Lent | None = self._manager.lend(name, options.version, key)
            if lent:
                return lent
            await asyncio.to_thread(self._manager.load_pinned, name, options.version)

    # in

    async def _read(self, receive: Receive) -> None:
        """Read and have annotated what arrives, until the body or the stream ends; then only watch."""
        limit = self._settings.max_text_chars
        lines = LineSplitter(longest_line(limit))
        number = 0
        while not self._body_ended.is_set() and not self._ended_by:
            arrived = lines.feed(await self._body(receive))
            if self._body_ended.is_set():
                arrived = chain(arrived, lines.end())
            group = _Group()
            for line in arrived:
                number += 1
                if number % _LINES_AT_ONCE == 0:
                    await asyncio.sleep(0)
                record = read_record(number, line, self._plain, limit)
                if record is None:
                    continue
                if not group.has_room(record):
                    await self._start(group)
                    group = _Group()
                if self._ended_by:
                    break
                group.add(record)
            await self._start(group)
        self._read_all = True
        self._grown.set()
        while True:
            await self._body(receive, look=False)

    async def _body(self, receive: Receive, look: bool = True) -> bytes:
        """The next piece of the body; empty, with `look`, when the stream was ended meanwhile."""
        message: Message | None = None
        while message is None:
            if look and self._ended_by:
                return b""
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if look else None):
                    message = await receive()
        if message["type"] != "http.request":
            if self._finished:  # the server says so too when all is sent
                await asyncio.Event().wait()
            raise ClientDisconnect
        self._alive = time.monotonic()
        if not message.get("more_body", False):
            self._body_ended.set()
        body: bytes = message.get("body", b"")
        return body

    async def _start(self, group: _Group) -> None:
        """Have a group annotated, as soon as there is room for it."""
        while self._groups and (
            len(self._groups) >= _GROUPS or self._characters + group.size > _CHARACTERS
        ):
            self._shrunk.clear()
            await self._shrunk.wait()
        if group.records and not self._ended_by:
            group.answers = self._tasks.create_task(self._answer(group.texts))
            self._characters += group.size
            self._groups.append(group)
            self._grown.set()

    async def _answer(self, texts: list[str]) -> _Answers:
        """The answer to each text. A queue that is full is waited for; where the batch of one text fails,
        the others are run without it."""
        while texts:
            error: NerveError
            try:
                return [*await asyncio.wrap_future(self._served.model.submit(texts))]
            except Busy as busy:
                await asyncio.sleep(min(max(busy.retry_after, 0.02), 5.0))
                continue
            except NotReady as closed:
                return [closed] * len(texts)
            except InferenceFailed as failed:
                error = failed
            except Exception as unknown:
                log.exception("stream %s: annotating failed", self._request.scope["nerve"].id)
                error = NerveError(f"the server failed ({type(unknown).__name__}); see its log")
            if len(texts) == 1:
                return [error]
            return [(await self._answer([text]))[0] for text in texts]
        return []

    # through

    async def _collect(self) -> None:
        """Bring the answers to the spool, in order, and what there is to say at the end."""
        try:
            while group := await self._oldest():
                assert group.answers
                answers = _in_place(group, await group.answers)
                for answer in answers:
                    if isinstance(answer, NotReady):
                        raise answer
                rendered = [
                    _rendered(record, answer, self._options)
                    for record, answer in zip(group.records, answers, strict=True)
                ]
                lines = [
                    answer_line(about, record.id)
                    for about, record in zip(rendered, group.records, strict=True)
                ]
                await self._spool.put(b"".join(lines))
                self._count(group, answers, rendered)
                self._groups.popleft()
                self._characters -= group.size
                self._shrunk.set()
                self._check_alive(group, answers)
        except NerveError as error:
            self._end(error)
        self._spool.put_last(self._last_line())

    def _end(self, error: NerveError) -> None:
        """Answer nothing more, and drop what is still being annotated."""
        self._ended_by = error
        for group in self._groups:
            assert group.answers
            group.answers.cancel()
        self._groups.clear()
        self._shrunk.set()

    def _check_alive(self, group: _Group, answers: _Answers) -> None:
        """Raises InferenceFailed where this version will not answer again; a new session may."""
        failed = all(isinstance(answer, NerveError) for answer in answers)
        if group.texts and failed and self._served.model.failing:
            name = "/".join(self._of)
            raise InferenceFailed(f"{name}: batches keep failing, and a new session takes its place")

    async def _oldest(self) -> _Group | None:
        while not self._groups:
            if self._read_all:
                return None
            self._grown.clear()
            await self._grown.wait()
        return self._groups[0]

    def _count(self, group: _Group, answers: _Answers, rendered: list[dict[str, Any]]) -> None:
        """A group is answered: its lines lie in the spool."""
        record = self._request.scope["nerve"]
        texts, predictions, results = list[str](), list[Prediction](), list[dict[str, Any]]()
        for asked, answer, result in zip(group.records, answers, rendered, strict=True):
            if isinstance(answer, Prediction):
                texts.append(asked.text)
                predictions.append(answer)
                results.append(result)
        self._records += len(group.records)
        self._failed += len(group.records) - len(results)
        self._line = group.records[-1].line
        record.texts += len(texts)
        record.characters += sum(map(len, texts))
        count_answers(self._metrics, self._of, results)
        self._manager.copy(self._served, texts, predictions)

    def _last_line(self) -> bytes:
        error = self._ended_by
        about: dict[str, Any] = {"done": error is None}
        if error:
            about |= {"error": f"{error.message}; go on after line {self._line}", "code": error.code}
        return answer_line(about | {"records": self._records, "failed": self._failed, "line": self._line})

    # out

    async def _write(self, send: Send) -> None:
        """Send what comes to the spool, until its end."""
        model, version = self._of
        headers = {
            "content-type": NDJSON,
            "x-nerve-model": model,
            "x-nerve-version": version,
            "x-accel-buffering": "no",  # of nginx, which would keep lines back
            "connection": "close",  # a stream that is ended early leaves a body that nobody will read
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
        """End the stream when the server shuts down, and let go of a client that does nothing more."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            draining = self._draining.is_set()
            if draining and not self._read_all and not self._ended_by:
                self._ended_by = NotReady("the server is shutting down", "shutting_down")
            patience = _STALL_SECONDS_DRAINING if draining else _STALL_SECONDS
            if self._sending and time.monotonic() - self._alive > patience:
                raise ClientDisconnect


def _size(record: Record) -> int:
    return len(record.text) + len(record.id)


def _in_place(group: _Group, given: _Answers) -> _Answers:
    """An answer to every record, the wrong ones too."""
    left = iter(given)
    return [record.error or next(left) for record in group.records]


def _rendered(record: Record, answer: Prediction | NerveError, options: NerOptions) -> dict[str, Any]:
    if isinstance(answer, NerveError):
        return {"error": answer.message, "code": answer.code, "line": record.line}
    return render_result(record.text, answer, options)
