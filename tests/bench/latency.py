"""One sentence of 30 words at concurrency 1: the whole request beside the session's own run of it.

The server runs in a process of its own, the session in this one, with as many threads, on the very
arrays that the sentence becomes. All take turns, a block each and a pause between, so that they meet
the same machine and none meets the other's threads still spinning.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from app.engine.predictor import Predictor
from app.engine.session import Arrays, Logits, OnnxSession, choose_provider
from app.engine.tokenizer import Tokenizer
from app.lifecycle.loading import choose_variant
from app.manifest import read_manifest
from tests.bench.loopback import Connection, encode, free_port, wait_ready
from tests.bench.report import Options, show
from tests.bench.texts import sentence
from tests.servers import NERVE, environment

WORDS = 30
BLOCK = 20
PAUSE = 0.05
REPOSITORY = Path(__file__).parents[2]


class Tap:
    """A session that remembers the last batch that it ran."""

    def __init__(self, session: OnnxSession):
        self.session = session
        self.batch: Arrays = {}

    def run(self, batch: Arrays) -> Logits:
        self.batch = batch
        return self.session.run(batch)


def run(options: Options) -> None:
    text = sentence(WORDS, Random(1))
    request = encode("POST", "/ner", json.dumps({"text": text}).encode())
    ports = free_port(), free_port()
    floor_command = [sys.executable, "-m", "uvicorn", "tests.bench.floor:app", "--port", str(ports[1])]
    with tempfile.TemporaryDirectory() as folder:
        settings = environment(
            options.models,
            port=ports[0],
            state_dir=folder,
            default_model=options.model,
            threads=0,
            poll_seconds=0.5,
        )
        log = subprocess.DEVNULL  # lines are written, as they are in service
        server = subprocess.Popen([NERVE, "serve"], env=settings, stderr=log)
        floor = subprocess.Popen([*floor_command, "--no-access-log"], cwd=REPOSITORY, stderr=log)
        try:
            served, constant = wait_ready(server, ports[0]), wait_ready(floor, ports[1])
            status, answer = served.exchange(request)
            if status != 200:
                raise RuntimeError(f"{options.model} does not answer: {answer!r}")
            _measure(options, text, request, served, constant, json.loads(answer)["version"])
        finally:
            for process in (server, floor):
                process.terminate()
                process.wait(60)


def _measure(
    options: Options, text: str, request: bytes, served: Connection, constant: Connection, version: int
) -> None:
    folder = options.models / options.model / str(version)
    manifest = read_manifest(folder)
    provider = choose_provider("auto")
    variant = choose_variant(manifest, provider)
    session = OnnxSession(folder / variant.file, provider, output=manifest.output)
    tap = Tap(session)
    predictor = Predictor(manifest, Tokenizer.from_file(folder / manifest.tokenizer, manifest.words), tap)
    predictor.predict([text])
    batch = tap.batch

    own, whole = "session.run, in this process", "POST /ner"
    cases: dict[str, Callable[[], object]] = {
        own: lambda: session.run(batch),
        "predictor.predict, in this process": lambda: predictor.predict([text]),
        "POST to FastAPI that answers a constant": lambda: constant.exchange(request),
        whole: lambda: served.exchange(request),
    }
    times = _take_turns(cases, max(1, options.requests // BLOCK))
    tokens = next(iter(batch.values())).shape[1]
    medians = show(
        f"One sentence of {WORDS} words ({tokens} sub-tokens), {variant.precision} on {session.provider}, "
        f"{session.threads} threads, {len(times[own])} times each",
        "ms",
        times,
        floor=own,
    )
    print(
        f"A request takes {medians[whole] - medians[own]:.2f} ms more than the session's own run (p50).\n"
    )
    predictor.close()


def _take_turns(cases: dict[str, Callable[[], object]], blocks: int) -> dict[str, list[float]]:
    """Milliseconds of each call; the first block, and the first call of each, warm up and are left out."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for block in range(blocks + 1):
        for name, call in cases.items():
            time.sleep(PAUSE)
            call()
            for _ in range(BLOCK):
                started = time.perf_counter()
                call()
                seconds = time.perf_counter() - started
                if block:
                    times[name].append(1e3 * seconds)
    return times
