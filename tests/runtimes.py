"""Runtimes for tests: a simulated machine of some cores, and a mark for what is run without CUDA."""

import time
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest

from app.engine.runtimes.cuda import CUDA
from app.engine.runtimes.runtime import Arrays, Logits

no_cuda = pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)

TOKEN_SECONDS = 0.0002
"""Seconds that a sub-token takes on one thread of a simulated machine."""


@dataclass
class Machine:
    """A session that takes as long as a network on a machine of some cores would; it runs nothing.

    Args:
        alike: how much of the second and further threads of a run does work.
        packed: padding takes no time.
        pair: the time of a pair of sub-tokens of a row, as part of the time of a sub-token.
        token_seconds: what a sub-token takes on one thread.
    """

    threads: int
    alike: float = 1.0
    packed: bool = False
    pair: float = 0.0
    token_seconds: float = TOKEN_SECONDS

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        return rows, longest

    def run(self, batch: Arrays) -> Logits:
        shape = next(iter(batch.values())).shape
        speed = 1 + self.alike * (self.threads - 1)
        tokens = float(batch["mask"].sum()) if self.packed else shape[0] * shape[1]
        time.sleep(self.token_seconds * (tokens + self.pair * shape[0] * shape[1] ** 2) / speed)
        return np.zeros((*shape, 3), np.float32)

    def stop(self, thread: int) -> None:
        """It ends by itself."""


def make_batch(rows: int, length: int, real: int | None = None) -> Arrays:
    """A batch for a `Machine`."""
    mask = np.zeros((rows, length), np.int64)
    mask[:, :real] = 1
    return {"mask": mask}
