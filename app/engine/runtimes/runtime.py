"""Runtime: what opens a network and plans how it runs, as protocols and values.

Nothing here runs anything; the runtimes are modules of their own, listed in `table`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[np.int64]]
Logits = npt.NDArray[np.float32]

Provider = Literal["auto", "cpu", "cuda"]
"""What NERVE_PROVIDER may say: the name of a runtime, or `auto` for the first one that is available."""


class Session(Protocol):
    """A network that is open: named arrays of shape (rows, length) go in, logits come out."""

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """The rows and length to which a batch of `rows`, the longest of `longest` sub-tokens, is padded.

        A row that is added must attend to one sub-token at least, as attention to none is not a number;
        its logits mean nothing.
        """
        ...

    def run(self, batch: Arrays) -> Logits:
        """Logits of shape (rows, length, tags). Several threads may call it at once."""
        ...


@dataclass(frozen=True)
class Settled:
    """What is known of how a network runs best, so that it is not measured.

    Attributes:
        runs: batches at a time; 0 where the runtime is to find it.
        own_single: whether a batch that comes alone gets a session of all threads; None where the
            runtime is to find it.
    """

    runs: int = 0
    own_single: bool | None = None


@dataclass(frozen=True)
class Running:
    """A network, opened, and how it runs here.

    Attributes:
        session: runs `runs` batches at a time.
        single: runs a batch that has the machine to itself; it may be `session`.
        runs: batches at a time, each on a thread of its own.
        provider: the name of what runs it, such as `CPUExecutionProvider`.
        threads: threads that all runs have together.
        max_batch_tokens: sub-tokens of the largest batch, padding included; a single row may have more.
    """

    session: Session
    single: Session
    runs: int
    provider: str
    threads: int
    max_batch_tokens: int

    @property
    def settled(self) -> Settled:
        """What another network needs to know to run as this one does."""
        return Settled(self.runs, self.single is not self.session)


@dataclass(frozen=True)
class Contract:
    """What a file must take and give, as the manifest says.

    Attributes:
        inputs: names of the inputs, each of shape (rows, length).
        output: name of the logits.
        max_length: sub-tokens of a row that the network takes at most, special tokens included.
    """

    inputs: frozenset[str]
    output: str
    max_length: int


@dataclass(frozen=True)
class Wanted:
    """How a network is to run.

    Attributes:
        threads: threads that all runs have together.
        max_batch_tokens: sub-tokens of the largest batch, padding included; 0 where the runtime is to
            choose.
    """

    threads: int
    settled: Settled = Settled()
    max_batch_tokens: int = 0


class MakeBatch(Protocol):
    """Makes a batch to measure with, no longer than the network can take."""

    def __call__(self, rows: int, length: int, real: int | None = None) -> Arrays:
        """A batch of this shape whose rows have `real` sub-tokens each, and padding after them.

        Without `real`, all sub-tokens are real.
        """
        ...


class Runtime(Protocol):
    """A way to run networks on a kind of device.

    Attributes:
        name: what NERVE_PROVIDER calls it, such as `cpu`.
        provider: what a manifest's variants call it, such as `CPUExecutionProvider`.
        runs_every_file: it runs files that are meant for other runtimes, if slower.
        prefers_fp16: it is fastest with files of half precision.
        single_process: why one process alone should use it where nobody said how many; None where
            several may.
    """

    name: str
    provider: str
    runs_every_file: bool
    prefers_fp16: bool
    single_process: str | None

    def available(self) -> bool:
        """Whether it runs on this machine, with what is installed."""
        ...

    def missing(self) -> str:
        """What keeps it from being available, and the remedy, as parts of one sentence."""
        ...

    def open(self, file: Path, contract: Contract, threads: int) -> Session:
        """The network of a file, on so many threads a run.

        Raises:
            VersionRefused: the file takes or gives something else than the contract says.
            SettingsError: the device has no room for it.
        """
        ...

    def plan(
        self,
        open_session: Callable[[int], Session],
        make_batch: MakeBatch,
        contract: Contract,
        wanted: Wanted,
    ) -> Running:
        """Choose threads, runs and the size of batches, and open the sessions for them.

        Args:
            open_session: opens the network on so many threads a run.

        Raises:
            InferenceFailed: the network does not run.
        """
        ...
