"""LitServe and onnxruntime: `python -m tests.bench.peers.lit PORT`.

`PEER_SETTING`: `workers`, a process with a session of one thread for each processor; or `batched`, one
process, a session of all processors, and whoever comes within 5 ms runs together.
"""

import os
import sys
from pathlib import Path
from typing import Any

import litserve  # type: ignore[import-not-found, unused-ignore]

from app.machine import available_cpus
from tests.bench.peers.answers import Body, Model

BATCHED = os.environ["PEER_SETTING"] == "batched"


class Ner(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """The four hooks of LitServe; `predict` takes a list of texts where it batches."""

    def setup(self, device: str) -> None:
        self.model = Model(Path(os.environ["PEER_MODEL"]), available_cpus() if BATCHED else 1)

    def decode_request(self, request: Body) -> str:
        return request.text

    def predict(self, texts: Any) -> Any:
        found = self.model.find(texts if BATCHED else [texts])
        return found if BATCHED else found[0]

    def encode_response(self, output: Any) -> dict[str, object]:
        return {"entities": output}


if __name__ == "__main__":
    batches = {"max_batch_size": 32, "batch_timeout": 0.005} if BATCHED else {}
    server = litserve.LitServer(
        Ner(api_path="/ner", **batches),
        accelerator="cpu",
        workers_per_device=1 if BATCHED else available_cpus(),
        healthcheck_path="/readyz",
        timeout=60,
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
