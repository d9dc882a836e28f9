"""A runtime opens networks and plans how they run. This module has its protocols and values.

Each runtime is another module; `table` lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[np.int64]]
Logits = npt.NDArray[np.float32]

Provider = Literal["auto", "cpu", "cuda"]
"""NERVE_PROVIDER is the name of a runtime, or `auto` for the first runtime that is available."""


@dataclass(frozen=True)
class OnnxFile:
    """Holds an ONNX file that was read before, so that nobody can exchange it after it was checked.

    Attributes:
        name: name of the file, for messages.
        weights: content of the files that it may keep weights in, by name. It can reach no other file.
    """

    name: str
    content: bytes = field(repr=False)
    weights: Mapping[str, bytes] = field(repr=False)


class Session(Protocol):
    """Runs an open network, which takes named arrays of shape (rows, length) and gives logits."""

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """Return the rows and length to which a batch is padded; its longest row has `longest` sub-tokens.

        An added row must attend to at least one sub-token, because attention to none gives NaN. The logits
        of added rows mean nothing.
        """
        ...

    def run(self, batch: Arrays) -> Logits:
        """Return logits of shape (rows, length, tags). Several threads may call it at once."""
        ...

    def stop(self, thread: int) -> None:
        """Tell the run of a thread, if there is one, to stop as soon as it can; it then fails."""
        ...


@dataclass(frozen=True)
class Settled:
    """Holds what is already decided about how a network runs, so that it need not be measured.

    Attributes:
        runs: batches at a time; 0 if the runtime should find it.
        own_single: whether a batch that has the machine to itself gets another session, with all threads;
            None if the runtime should find it.
    """

    runs: int = 0
    own_single: bool | None = None


@dataclass(frozen=True)
class Running:
    """Holds the sessions of an open network, and how it runs on this machine.

    Attributes:
        session: runs `runs` batches at a time.
        single: runs a batch that has the machine to itself; it may be the same as `session`.
        runs: batches at a time, each on another thread.
        provider: name of the execution provider, such as `CPUExecutionProvider`.
        threads: total threads of all batches that run at a time.
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
        """Return the values that let another network run as this one does, without measuring."""
        return Settled(self.runs, self.single is not self.session)


@dataclass(frozen=True)
class Contract:
    """Holds the inputs and the output that the manifest promises of a file.

    Attributes:
        inputs: names of the inputs, each of shape (rows, length).
        output: name of the output that holds the logits.
        max_length: most sub-tokens of a row that the network takes, special tokens included.
    """

    inputs: frozenset[str]
    output: str
    max_length: int


@dataclass(frozen=True)
class Wanted:
    """Says how a network should run.

    Attributes:
        threads: total threads of all batches that run at a time.
        settled: what is decided already and need not be measured.
        max_batch_tokens: sub-tokens of the largest batch, padding included; 0 if the runtime should choose.
    """

    threads: int
    settled: Settled = Settled()
    max_batch_tokens: int = 0


class MakeBatch(Protocol):
    """Makes batches to measure with, with rows no longer than the network can take."""

    def __call__(self, rows: int, length: int, real: int | None = None) -> Arrays:
        """Make a batch of rows with `real` sub-tokens each, then padding; by default without padding."""
        ...


class Runtime(Protocol):
    """Runs networks on one kind of device.

    Attributes:
        name: name of the runtime in NERVE_PROVIDER, such as `cpu`.
        provider: name of the runtime in a manifest's variants, such as `CPUExecutionProvider`.
        runs_every_file: whether it also runs files that are meant for other runtimes, more slowly.
        prefers_fp16: whether it is fastest with files of half precision.
        single_process: why only one process should use it unless the operator sets a number; None if
            several processes may.
    """

    name: str
    provider: str
    runs_every_file: bool
    prefers_fp16: bool
    single_process: str | None

    def available(self) -> bool:
        """Say whether the runtime works on this machine, with what is installed."""
        ...

    def missing(self) -> str:
        """Say what keeps the runtime from being available, and the remedy, as parts of one sentence."""
        ...

    def open(self, file: Path | OnnxFile, contract: Contract, threads: int) -> Session:
        """Open the network of a file, with `threads` threads for each batch.

        Raises:
            VersionRefused: the file's inputs or outputs are not those of the contract.
            SettingsError: the device has no room for the network.
        """
        ...

    def plan(
        self,
        open_session: Callable[[int], Session],
        make_batch: MakeBatch,
        contract: Contract,
        wanted: Wanted,
    ) -> Running:
        """Choose threads, batches at a time and the size of batches, and open the sessions for them.

        Args:
            open_session: opens the network with a number of threads for each batch.

        Raises:
            InferenceFailed: the network fails on a batch.
        """
        ...
