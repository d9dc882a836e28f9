"""Requests a second and memory beside the peers: the same network and the same load, taking turns."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.load import Plan
from tests.bench.load import run as load
from tests.bench.loopback import free_port
from tests.bench.processes import REPOSITORY, Served, ours, served
from tests.bench.report import Options, machine, table
from tests.bench.throughput import WARM_UP, Case, Turn, described, requests_of, turn_of, version_of
from tests.servers import environment

CASES = (Case(1), Case(16), Case(64))
OURS = "Nerve"
PIPELINE = "FastAPI + Transformers pipeline (torch, fp32)"


@dataclass(frozen=True)
class Peer:
    """Another way to serve the network.

    Attributes:
        module: of `tests.bench.peers`.
        needs: the package without which it is left out.
    """

    name: str
    module: str
    setting: str
    needs: str = "fastapi"

    def command(self, port: int) -> list[str]:
        if self.module == "lit":
            return [sys.executable, "-m", "tests.bench.peers.lit", str(port)]
        app = f"tests.bench.peers.{self.module}:app"
        return [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--no-access-log"]


PEERS = (
    Peer(PIPELINE, "pipelines", "torch", "torch"),
    Peer("FastAPI + optimum pipeline, int8", "pipelines", "optimum", "optimum"),
    Peer("FastAPI + onnxruntime int8 by hand, threads", "by_hand", "threads"),
    Peer("FastAPI + onnxruntime int8 by hand, inline", "by_hand", "inline"),
    Peer("FastAPI + onnxruntime int8 by hand, 5 ms batches", "by_hand", "batched"),
    Peer("LitServe + onnxruntime int8, workers", "lit", "workers", "litserve"),
    Peer("LitServe + onnxruntime int8, 5 ms batches", "lit", "batched", "litserve"),
)


@dataclass
class Measured:
    """What was seen of one server.

    Attributes:
        rss: bytes, with those of its other processes, after its turns.
    """

    turns: dict[Case, list[Turn]] = field(default_factory=lambda: {case: [] for case in CASES})
    rss: int = 0

    def rate(self, case: Case) -> float:
        return median(turn.rate for turn in self.turns[case])

    def p50(self, case: Case) -> float:
        return median(turn.p50 for turn in self.turns[case])

    def p99(self, case: Case) -> float:
        return median(turn.p99 for turn in self.turns[case])

    @property
    def failed(self) -> int:
        return sum(turn.failed for turns in self.turns.values() for turn in turns)


def run(options: Options) -> None:
    here = [peer for peer in PEERS if find_spec(peer.needs)]
    for package in sorted({peer.needs for peer in PEERS if peer not in here}):
        print(
            f"{package} is not installed, and its peers are left out; install it with "
            "python -m pip install --constraint constraints.txt --requirement tests/bench/peers.txt"
        )
    turns = min(options.turns, 3)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = stack.enter_context(ours(options))
        version = options.models / options.model / str(version_of(server, options))
        _make_network(version, Path(folder))
        servers = {OURS: server}
        _pause(server)
        for peer in here:
            port = free_port()
            settings = {"PEER_MODEL": folder, "PEER_SETTING": peer.setting, "HF_HUB_OFFLINE": "1"}
            env = environment(options.models) | settings
            print(f"  starting {peer.name}", flush=True)
            servers[peer.name] = stack.enter_context(served(peer.command(port), port, env))
            _check_answer(peer.name, servers[peer.name], options)
            _pause(servers[peer.name])
        measured = {name: Measured() for name in servers}
        for turn in range(turns):
            print(f"  turn {turn + 1} of {turns}", flush=True)
            for case in CASES:
                for name, one in servers.items():
                    with _awake(one):
                        measured[name].turns[case].append(_take_turn(one, case, options))
                        measured[name].rss = max(measured[name].rss, one.rss)
    _show(options, measured, turns)
    if options.json is not None:
        options.json.write_text(json.dumps(figures(options, measured, turns), indent=1) + "\n")
        print(f"wrote {options.json}; python -m tests.bench.chart draws it\n", flush=True)


def figures(options: Options, measured: dict[str, Measured], turns: int) -> dict[str, Any]:
    """The medians of all turns, as `tests.bench.chart` reads them."""
    return {
        "machine": machine().splitlines()[0],
        "texts": described(options.texts),
        "turns": turns,
        "seconds": options.seconds,
        "servers": {
            name: {
                "mb": round(one.rss / 1e6),
                "failed": one.failed,
                "clients": {
                    str(case.clients): {
                        "rate": round(one.rate(case), 1),
                        "p50_ms": round(one.p50(case), 2),
                        "p99_ms": round(one.p99(case), 2),
                    }
                    for case in CASES
                },
            }
            for name, one in measured.items()
        },
    }


def _make_network(version: Path, target: Path) -> None:
    """Raises CalledProcessError: the version is no BERT, or cannot be exported; it has said why."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.bench.peers.network", version, target],
        cwd=REPOSITORY,
        check=True,
    )


def _take_turn(server: Served, case: Case, options: Options) -> Turn:
    seconds = WARM_UP + options.seconds
    plan = Plan(server.port, requests_of(options.texts, 1), seconds, case.clients)
    return turn_of(load(plan), case, seconds)


def _check_answer(name: str, server: Served, options: Options) -> None:
    """Raises RuntimeError: it does not answer a text with entities."""
    for request in requests_of(options.texts[:20], 1):
        status, body = server.exchange(request)
        if status != 200:
            raise RuntimeError(f"{name} does not answer: {status} {body[:200]!r}")
        entities = json.loads(body)["entities"]
        if entities and set(entities[0]) != {"start", "end", "label", "score"}:
            raise RuntimeError(f"{name} answers something else than entities: {body[:200]!r}")


@contextmanager
def _awake(server: Served) -> Iterator[None]:
    """The others sleep, so that what they do when idle costs this one nothing."""
    _resume(server)
    try:
        yield
    finally:
        _pause(server)


def _pause(server: Served) -> None:
    for process in server.family:
        process.suspend()


def _resume(server: Served) -> None:
    for process in reversed(server.family):
        process.resume()


def _show(options: Options, measured: dict[str, Measured], turns: int) -> None:
    rows = {}
    for name, one in measured.items():
        cells = [f"{one.rate(CASES[0]):.0f}", f"{one.p50(CASES[0]):.2f}"]
        for case in CASES[1:]:
            cells += [f"{one.rate(case):.0f}", f"{one.p50(case):.1f}", f"{one.p99(case):.0f}"]
        rows[name] = [*cells, f"{one.rss / 1e6:.0f}", str(one.failed)]
    columns = ["c=1 rps", "p50 ms"]
    for case in CASES[1:]:
        columns += [f"c={case.clients} rps", "p50 ms", "p99 ms"]
    table(
        f"Beside the peers: {described(options.texts)}, medians of {turns} turns of {options.seconds:g} s",
        [*columns, "MB", "failed"],
        rows,
    )
    crowd, ours_ = CASES[-1], measured[OURS]
    others = {name: one for name, one in measured.items() if name != OURS}
    best = max(others, key=lambda name: others[name].rate(crowd))
    for name in dict.fromkeys((PIPELINE, best)):
        if name in others:
            other = others[name]
            print(
                f"At c={crowd.clients} Nerve answers {ours_.rate(crowd) / other.rate(crowd):.2f} times as "
                f"many as {name}, with {ours_.p99(crowd) / other.p99(crowd):.2f} times its p99"
            )
    print(flush=True)
