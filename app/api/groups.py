"""Groups: takes the lines of a stream through the engine, several groups at a time, in order."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.annotate import Annotator
from app.api.arriving import FREE
from app.api.failures import crash_of
from app.api.lines import Record
from app.api.room import Share
from app.engine.decoding.entities import Prediction
from app.errors import Busy, InferenceFailed, NerveError, NotReady

_TEXTS, _CHARACTERS = 32, 32_768
"""Most texts and characters of a group: enough for full batches. A longer text is a group alone."""

_MOST_GROUPS, _MOST_CHARACTERS = 8, 262_144
"""Most groups and characters of a stream in the engine at a time, which bounds its memory."""

Answers = Sequence[Prediction | NerveError]


@dataclass
class Group:
    """Holds lines that are annotated together; `size` counts the characters of their texts and ids."""

    records: list[Record] = field(default_factory=list)
    size: int = 0
    answers: "asyncio.Task[Answers] | None" = None

    @property
    def texts(self) -> list[str]:
        """Return the texts of the records that can be annotated."""
        return [record.text for record in self.records if not record.error]

    def has_room(self, record: Record) -> bool:
        """Say whether there is room for another record."""
        fits = self.size + _size(record) <= _CHARACTERS
        return not self.records or (fits and len(self.records) < _TEXTS)

    def add(self, record: Record) -> None:
        """Add a record."""
        self.records.append(record)
        self.size += _size(record)

    async def answered(self) -> Answers:
        """Return an answer to every record, which may be an error."""
        assert self.answers
        left = iter(await self.answers)
        return [record.error or next(left) for record in self.records]


class Groups:
    """Queues groups: one coroutine adds them, another takes the oldest once it is answered.

    Args:
        annotator: annotates the texts.
        tasks: runs the annotating tasks.
        request_id: the id of the stream in the log.
        share: what its texts hold of the room for all that arrives.
    """

    def __init__(self, annotator: Annotator, tasks: asyncio.TaskGroup, request_id: str, share: Share):
        self._annotator = annotator
        self._tasks = tasks
        self._request_id = request_id
        self._share = share
        self._groups: deque[Group] = deque()
        self._characters = 0
        self._complete = False
        self._grown, self._shrunk = asyncio.Event(), asyncio.Event()

    def __len__(self) -> int:
        return len(self._groups)

    def hold(self, record: Record) -> None:
        """Hold for a record, until it is removed, what its line has held until now."""
        self._share.resize(self._share.size + _held(record))

    async def room_for(self, group: Group) -> None:
        """Wait until there is room for a group."""
        while self._groups and (
            len(self._groups) >= _MOST_GROUPS or self._characters + group.size > _MOST_CHARACTERS
        ):
            self._shrunk.clear()
            await self._shrunk.wait()

    def add(self, group: Group) -> None:
        """Begin to annotate a group."""
        group.answers = self._tasks.create_task(self._annotated(group.texts))
        self._characters += group.size
        self._groups.append(group)
        self._grown.set()

    def add_no_more(self) -> None:
        """Say that the last group has been added."""
        self._complete = True
        self._grown.set()

    async def oldest(self) -> Group | None:
        """Wait for the oldest group; return None when there is none and none will come."""
        while not self._groups:
            if self._complete:
                return None
            self._grown.clear()
            await self._grown.wait()
        return self._groups[0]

    def remove_oldest(self) -> None:
        """Remove the oldest group, which makes room for another."""
        group = self._groups.popleft()
        self._characters -= group.size
        self._share.resize(self._share.size - sum(map(_held, group.records)))
        self._shrunk.set()

    def clear(self) -> None:
        """Cancel and remove all groups."""
        for group in self._groups:
            assert group.answers
            group.answers.cancel()
        self._groups.clear()
        self._characters = 0
        self._shrunk.set()

    async def _annotated(self, texts: list[str]) -> Answers:
        """Return the answer to each text, after waiting while the queue is full. If a batch fails, run each
        text alone, so that only those that fail get an error."""
        while texts:
            error: NerveError
            try:
                return await asyncio.wrap_future(self._annotator.submit(texts))
            except Busy as busy:
                await asyncio.sleep(min(max(busy.retry_after, 0.02), 5.0))
                continue
            except NotReady as closed:
                return [closed] * len(texts)
            except InferenceFailed as failed:
                error = failed
            except Exception as unknown:
                error = crash_of(unknown, self._request_id)
            if len(texts) == 1:
                return [error]
            return [(await self._annotated([text]))[0] for text in texts]
        return []


def _size(record: Record) -> int:
    return len(record.text) + len(record.id)


def _held(record: Record) -> int:
    """Return what a record holds of the room: as a large line does, its first bytes nothing."""
    return max(0, _size(record) - FREE)
