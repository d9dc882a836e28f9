"""From process start to ready, and memory: `nerve serve` beside a bare Python and its heaviest imports."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.loopback import encode, free_port, wait_ready
from tests.bench.report import Options, show
from tests.bench.texts import news
from tests.servers import NERVE, environment

STARTS = 5


@dataclass(frozen=True)
class Start:
    """One start: seconds until ready, and resident bytes then and after the requests."""

    seconds: float
    rss_ready: int
    rss_after: int


def run(options: Options) -> None:
    """Starts take turns with their floors; the first of each, which fills the disk's cache, is left out."""
    texts = news(options.requests or 500)
    requests = [encode("POST", "/ner", json.dumps({"text": text}).encode()) for text in texts]
    bare, imports, starts = [], [], []
    with tempfile.TemporaryDirectory() as state:  # the first start writes down what serves
        for _ in range(STARTS + 1):
            bare.append(_run_python("pass", state))
            imports.append(_run_python("import fastapi, onnxruntime", state))
            starts.append(_start(options, requests, state))
    seconds = [start.seconds for start in starts[1:]]
    show(
        f"Start, median of {STARTS}",
        "ms",
        {
            "python -c pass": [1e3 * s for s in bare[1:]],
            "python -c 'import fastapi, onnxruntime'": [1e3 * s for s in imports[1:]],
            "nerve serve until /readyz is 200": [1e3 * s for s in seconds],
        },
        floor="python -c 'import fastapi, onnxruntime'",
    )
    show(
        f"Resident memory, median of {STARTS}",
        "MB",
        {
            "ready": [start.rss_ready / 1e6 for start in starts[1:]],
            f"after {len(texts)} sentences": [start.rss_after / 1e6 for start in starts[1:]],
        },
        floor="ready",
    )


def _with_bytecode(env: Mapping[str, str], state: str) -> dict[str, str]:
    """An environment in which Python keeps its bytecode, as it does unless told otherwise."""
    kept = {name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(Path(state) / "bytecode")}


def _run_python(code: str, state: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=_with_bytecode(os.environ, state))
    return time.perf_counter() - started


def _start(options: Options, requests: list[bytes], state: str) -> Start:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        settings = environment(
            options.models,
            port=port,
            state_dir=state,
            default_model=options.model,
            workers=0,
            threads=0,
            poll_seconds=0.5,
        )
        started = time.perf_counter()
        process = subprocess.Popen([NERVE, "serve"], env=_with_bytecode(settings, state), stderr=log)
        try:
            connection = wait_ready(process, port)
            seconds = time.perf_counter() - started
            ready = psutil.Process(process.pid).memory_info().rss
            for request in requests:
                status, body = connection.exchange(request)
                if status != 200:
                    raise RuntimeError(f"a request failed: {body!r}")
            after = psutil.Process(process.pid).memory_info().rss
            connection.close()
        except RuntimeError:
            log.seek(0)
            sys.stderr.write(log.read().decode())
            raise
        finally:
            process.terminate()
            process.wait(60)
    return Start(seconds, ready, after)
