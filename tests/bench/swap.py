"""Swaps under saturating load: what callers notice, and what stays behind in memory.

The same load runs without swaps, with them, and without them again. Two versions of the model take
turns; each swap is a PUT that answers once the other serves. Every answer is compared with what the version
that it names gives when asked alone, so one that two versions had a part in would show.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

import psutil

from tests.bench.loopback import Connection, encode, free_port, wait_ready
from tests.bench.report import Options
from tests.bench.texts import news
from tests.servers import environment

CONNECTIONS = 16
QUIET_SECONDS = 30
PAUSE = 0.5
"""Seconds in which the last request of the version before ends, so that the next swap loads it anew."""
REPOSITORY = Path(__file__).parents[2]

Answers = dict[int, list[object]]


class Load:
    """Callers that send a text and wait for the answer, again and again; every tenth time with four."""

    def __init__(self, port: int, model: str, texts: Sequence[str], answers: Answers):
        self._port, self._model, self._texts, self._answers = port, model, texts, answers
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CONNECTIONS)]
        self.milliseconds: list[float] = []
        self.failed: list[str] = []
        self.mixed = 0
        self.by_version: dict[int, int] = {}

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        connection, random = Connection(self._port), Random(number)
        while not self._stop.is_set():
            chosen = random.sample(range(len(self._texts)), 4 if random.random() < 0.1 else 1)
            request = _request(self._model, [self._texts[n] for n in chosen])
            started = time.perf_counter()
            try:
                status, body = connection.exchange(request)
            except OSError as error:
                self.failed.append(str(error))
                connection = Connection(self._port)
                continue
            self.milliseconds.append(1e3 * (time.perf_counter() - started))
            if status != 200:
                self.failed.append(f"{status} {body!r}")
                continue
            answer = json.loads(body)
            version = answer["version"]
            self.by_version[version] = self.by_version.get(version, 0) + 1
            self.mixed += answer["results"] != [self._answers[version][n] for n in chosen]
        connection.close()


def run(options: Options) -> None:
    folder = options.models / options.model
    versions = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())[-2:]
    if len(versions) < 2:
        raise SystemExit(f"{folder}: a swap needs two versions, and there is {versions}")
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        settings = environment(
            options.models,
            port=port,
            state_dir=state,
            default_model=options.model,
            threads=0,
            poll_seconds=0.5,
            log_level="warning",
        )
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.watched"], env=settings, cwd=REPOSITORY
        )
        try:
            wait_ready(server, port).close()
            _measure(options, psutil.Process(server.pid), port, versions)
        finally:
            server.terminate()
            server.wait(60)


def _measure(options: Options, process: psutil.Process, port: int, versions: Sequence[int]) -> None:
    texts = news(options.requests or 500)
    answers: Answers = {}
    for version in versions:
        _swap(
            port, options.model, version
        )  # one that requests pin would stay loaded, and a swap be nothing
        found = [_ask(port, _request(options.model, [text])) for text in texts]
        answers[version] = [answer["results"][0] for answer in found]
    print(
        f"{options.swaps} swaps of {options.model}/{versions[0]} and /{versions[1]} "
        f"under {CONNECTIONS} connections"
    )
    _ask(port, encode("GET", "/watched"))
    quiet = [_quiet(port, options, texts, answers)]
    seconds: list[float] = []
    resident: list[float] = []
    with Load(port, options.model, texts, answers) as load:
        for number in range(options.swaps):
            started = time.perf_counter()
            _swap(port, options.model, versions[number % 2])
            seconds.append(time.perf_counter() - started)
            time.sleep(PAUSE)
            resident.append(process.memory_info().rss / 1e6)
    late = _ask(port, encode("GET", "/watched"))
    quiet.append(_quiet(port, options, texts, answers))
    loads = {"before": quiet[0][0], "with swaps": load, "after": quiet[1][0]}
    watches = {"before": quiet[0][1], "with swaps": late, "after": quiet[1][1]}

    print(
        f"  {'':11}{'requests':>9}{'a second':>9}{'failed':>8}{'mixed':>7}{'p50 ms':>8}{'p99 ms':>8}"
        f"{'p99.9 ms':>9}{'max ms':>8}{'loop late, ms: p99.9':>21}{'max':>7}"
    )
    tails = {}
    for name, one in loads.items():
        cuts = quantiles(one.milliseconds, n=1000)
        tails[name] = cuts[998]
        took = sum(one.milliseconds) / 1e3 / CONNECTIONS
        print(
            f"  {name:11}{len(one.milliseconds):9}{len(one.milliseconds) / took:9.0f}{len(one.failed):8}"
            f"{one.mixed:7}{median(one.milliseconds):8.1f}{cuts[989]:8.1f}{cuts[998]:9.1f}"
            f"{max(one.milliseconds):8.1f}"
            f"{1e3 * watches[name]['p999']:21.1f}{1e3 * watches[name]['latest']:7.1f}"
        )
        for failure in one.failed[:3]:
            print(f"    failed: {failure}")
    without = max(tails["before"], tails["after"])
    quarter, before = max(1, len(resident) // 4), watches["before"]
    early_mb, late_mb = median(resident[quarter : 2 * quarter] or resident), median(resident[-quarter:])
    print(
        f"  p99.9 with swaps: {tails['with swaps'] - without:+.1f} ms beside the worse without (aim 250)\n"
        f"  a swap takes {median(seconds):.2f} s, at most {max(seconds):.2f}, loading and checks included\n"
        f"  resident {early_mb:.0f} MB in the second quarter of the swaps, {late_mb:.0f} MB in the last: "
        f"{100 * (late_mb / early_mb - 1):+.1f} % (aim: 5), medians; {min(resident):.0f} to "
        f"{max(resident):.0f} MB in all\n"
        f"  threads {before['threads']:.0f} before and {late['threads']:.0f} after, "
        f"open files {before['files']:.0f} and {late['files']:.0f}\n"
    )


def _quiet(
    port: int, options: Options, texts: Sequence[str], answers: Answers
) -> tuple[Load, dict[str, float]]:
    """The load without swaps."""
    with Load(port, options.model, texts, answers) as load:
        time.sleep(QUIET_SECONDS)
    return load, _ask(port, encode("GET", "/watched"))


def _request(model: str, texts: Sequence[str]) -> bytes:
    return encode("POST", "/ner", json.dumps({"model": model, "texts": texts}).encode())


def _swap(port: int, model: str, version: int) -> None:
    body = json.dumps({"stable": version}).encode()
    _ask(port, encode("PUT", f"/models/{model}/deployment", body))


def _ask(port: int, request: bytes) -> Any:
    connection = Connection(port)
    status, body = connection.exchange(request)
    connection.close()
    if status != 200:
        raise RuntimeError(f"{request[:60]!r}: {status} {body!r}")
    return json.loads(body)
