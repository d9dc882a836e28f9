"""CPU: networks run by ONNX Runtime on the processors of this machine."""

from collections.abc import Callable
from pathlib import Path

from app.engine.runtimes.runtime import Contract, MakeBatch, Running, Session, Wanted
from app.engine.runtimes.session import CPU, OnnxSession
from app.engine.runtimes.tuning import tune

BATCH_TOKENS = 512
"""Sub-tokens of the largest batch. Larger ones are no faster, and the memory of the largest is kept."""


class Cpu:
    """The runtime `cpu`. Each batch keeps its shape, and threads are divided as measuring finds best."""

    name = "cpu"
    provider = CPU
    runs_every_file = False
    prefers_fp16 = False
    single_process: str | None = None

    def available(self) -> bool:
        """Always: every build of ONNX Runtime runs on a CPU."""
        return True

    def missing(self) -> str:
        """Nothing."""
        return "nothing is missing"

    def open(self, file: Path, contract: Contract, threads: int) -> OnnxSession:
        """The network of a file; see `Runtime.open`."""
        return OnnxSession(file, CPU, threads, contract.output).checked(file, contract)

    def plan(
        self,
        open_session: Callable[[int], Session],
        make_batch: MakeBatch,
        contract: Contract,
        wanted: Wanted,
    ) -> Running:
        """Divide the threads among runs as `tune` finds best; see `Runtime.plan`."""
        found = tune(open_session, wanted.threads, make_batch, wanted.settled)
        return Running(
            found.session,
            found.single,
            found.runs,
            CPU,
            found.runs * found.threads,
            wanted.max_batch_tokens or BATCH_TOKENS,
        )
