"""The runtime `cpu` runs networks with ONNX Runtime on the processors of this machine."""

from collections.abc import Callable
from pathlib import Path

from app.engine.runtimes.runtime import Contract, MakeBatch, OnnxFile, Running, Session, Wanted
from app.engine.runtimes.session import CPU, OnnxSession
from app.engine.runtimes.tuning import tune

BATCH_TOKENS = 512
"""Sub-tokens of the largest batch. A larger one is no faster, and a session keeps its memory for good."""


class Cpu:
    """Runs networks on CPUs: batches keep their shapes, and a measurement decides how to divide threads."""

    name = "cpu"
    provider = CPU
    runs_every_file = False
    prefers_fp16 = False
    single_process: str | None = None

    def available(self) -> bool:
        """Return True, because every build of ONNX Runtime runs on a CPU."""
        return True

    def missing(self) -> str:
        """Say that nothing is missing."""
        return "nothing is missing"

    def open(self, file: Path | OnnxFile, contract: Contract, threads: int) -> OnnxSession:
        """Open the network of a file; see `Runtime.open`."""
        return OnnxSession(file, CPU, threads, contract.output).checked(file, contract)

    def plan(
        self,
        open_session: Callable[[int], Session],
        make_batch: MakeBatch,
        contract: Contract,
        wanted: Wanted,
    ) -> Running:
        """Divide the threads among batches as `tune` finds fastest; see `Runtime.plan`."""
        found = tune(open_session, wanted.threads, make_batch, wanted.settled)
        return Running(
            found.session,
            found.single,
            found.runs,
            CPU,
            found.runs * found.threads,
            wanted.max_batch_tokens or BATCH_TOKENS,
        )
