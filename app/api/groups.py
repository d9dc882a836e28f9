"""Groups: the lines of a stream on their way through the engine, several groups at a time, in order."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.annotate import Annotator
from app.api.failures import crash_of
from app.api.lines import Record
from app.engine.decoding.entities import Prediction
from app.errors import Busy, InferenceFailed, NerveError, NotReady

_TEXTS, _CHARACTERS = 32, 32_768
"""The most texts and characters of a group, unless a single text is longer."""

_MOST_GROUPS, _MOST_CHARACTERS = 8, 262_144
"""The most groups and characters that are in the engine at a time."""

Answers = Sequence[Prediction | NerveError]


@dataclass
class Group:
    """Lines that are annotated together."""

    records: list[Record] = field(default_factory=list)
    size: int = 0
    answers: "asyncio.Task[Answers] | None" = None

    @property
    def texts(self) -> list[str]:
        """The texts of the records that have one."""
        return [record.text for record in self.records if not record.error]

    def has_room(self, record: Record) -> bool:
        """Whether a record may still join."""
        fits = self.size + _size(record) <= _CHARACTERS
        return not self.records or (fits and len(self.records) < _TEXTS)

    def add(self, record: Record) -> None:
        """Let a record join."""
        self.records.append(record)
        self.size += _size(record)

    async def answered(self) -> Answers:
        """An answer to every record, those that are errors themselves too."""
        assert self.answers
        left = iter(await self.answers)
        return [record.error or next(left) for record in self.records]


class Groups:
    """A queue of groups: one coroutine adds, another takes the oldest once it is answered.

    Args:
        annotator: what they are annotated with.
        tasks: where the annotating runs.
        request_id: what the log calls the stream.
    """

    def __init__(self, annotator: Annotator, tasks: asyncio.TaskGroup, request_id: str):
        self._annotator = annotator
        self._tasks = tasks
        self._request_id = request_id
        self._groups: deque[Group] = deque()
        self._characters = 0
        self._complete = False
        self._grown, self._shrunk = asyncio.Event(), asyncio.Event()

    async def room_for(self, group: Group) -> None:
        """Wait until a group may be added."""
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
        """The group whose turn it is; None when there is none and none will come."""
        while not self._groups:
            if self._complete:
                return None
            self._grown.clear()
            await self._grown.wait()
        return self._groups[0]

    def remove_oldest(self) -> None:
        """Make room: the oldest group has had its turn."""
        self._characters -= self._groups.popleft().size
        self._shrunk.set()

    def clear(self) -> None:
        """Drop all groups and what is still being annotated."""
        for group in self._groups:
            assert group.answers
            group.answers.cancel()
        self._groups.clear()
        self._shrunk.set()

    async def _annotated(self, texts: list[str]) -> Answers:
        """The answer to each text. A full queue is waited for; where the batch of one text fails, the
        others are run without it."""
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
