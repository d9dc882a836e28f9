"""One minute: the ratio to the limit, and where the time of requests goes, by the server's own counters."""

import time
from dataclasses import dataclass
from statistics import median

from tests.bench.load import Load, Plan
from tests.bench.offline import Offline, Setting
from tests.bench.processes import Served, ours
from tests.bench.report import Options, table
from tests.bench.throughput import (
    WARM_UP,
    Case,
    Turn,
    described,
    requests_of,
    turn_of,
    version_of,
)
from tests.servers import sample_sum

CASES = (Case(1), Case(64))
STAGES = ("parse", "tokenize", "queue", "run", "decode", "render")
COUNTER = "nerve_stage_seconds_total"


@dataclass(frozen=True)
class Spent:
    """What one turn took, in seconds.

    Attributes:
        stages: by the server's own count.
        server: of the processor, by all of its process.
        load: the same, by who sent the requests.
        requests: how many were answered.
        seconds: by the clock.
    """

    stages: dict[str, float]
    server: float
    load: float
    requests: int
    seconds: float


def run(options: Options) -> None:
    seconds, turns = min(options.seconds, 3.0), min(options.turns, 5)
    with ours(options) as server:
        offline = Offline(options, version_of(server, options), [1])
        setting = Setting(1, offline.cpus, 256)
        limits: list[float] = []
        taken: dict[Case, list[Turn]] = {case: [] for case in CASES}
        spent: dict[Case, list[Spent]] = {case: [] for case in CASES}
        for _ in range(turns):
            for case in CASES:
                limits.append(offline.rate(options.texts, setting, seconds / 2))
                turn, one = _take_turn(server, case, options, seconds)
                taken[case].append(turn)
                spent[case].append(one)
    limit = median(limits)
    rows = {f"limit ({setting})": [f"{limit:.0f}", "", "", "100 %"]}
    for case, turn_list in taken.items():
        rate = median(turn.rate for turn in turn_list)
        rows[f"Nerve, {case}"] = [
            f"{rate:.0f}",
            f"{median(turn.p50 for turn in turn_list):.2f}",
            f"{median(turn.p99 for turn in turn_list):.2f}",
            f"{100 * rate / limit:.0f} %",
        ]
    table(
        f"Quick: {described(options.texts)}, medians of {turns} turns of {seconds:g} s",
        ("texts/s", "p50 ms", "p99 ms", "of limit"),
        rows,
    )
    for case, all_spent in spent.items():
        _show_stages(case, all_spent, offline.cpus)


def _take_turn(server: Served, case: Case, options: Options, seconds: float) -> tuple[Turn, Spent]:
    """A closed loop, and what the server counted meanwhile."""
    before, server_before, started = stage_seconds(server), server.cpu_seconds, time.perf_counter()
    plan = Plan(server.port, requests_of(options.texts, case.texts), WARM_UP + seconds, case.clients)
    with Load(plan) as load:
        result = load.result()
    ended, server_after, after = time.perf_counter(), server.cpu_seconds, stage_seconds(server)
    spent = Spent(
        {stage: after[stage] - before[stage] for stage in STAGES},
        server_after - server_before,
        result.cpu_seconds,
        len(result.answers),
        ended - started,
    )
    return turn_of(result, case, WARM_UP + seconds), spent


def stage_seconds(server: Served) -> dict[str, float]:
    """Seconds that requests have spent in each stage so far; 0 where the server does not count one."""
    exposition = server.get("/metrics")
    return {stage: sample_sum(exposition, COUNTER, {"stage": stage}) for stage in STAGES}


def _show_stages(case: Case, spent: list[Spent], cpus: int) -> None:
    """Microseconds of a request, share of all work, and share of what the processors have to give.

    Stages are counted by the clock. Threads that wait for each other, or share a processor, count twice, so
    that shares of the machine may add up to more than what the server took of it. Who waits does no work.
    """
    requests = sum(one.requests for one in spent)
    machine = cpus * sum(one.seconds for one in spent)
    stages = {stage: sum(one.stages[stage] for one in spent) for stage in STAGES}
    counted = sum(seconds for stage, seconds in stages.items() if stage != "queue")
    rows = {
        stage: [
            f"{1e6 * seconds / requests:.0f}",
            "" if stage == "queue" else f"{100 * seconds / (counted or 1.0):.1f} %",
            "" if stage == "queue" else f"{100 * seconds / machine:.1f} %",
        ]
        for stage, seconds in stages.items()
    }
    server, load = sum(one.server for one in spent), sum(one.load for one in spent)
    for name, seconds in {
        "the server's processor time": server,
        "  of it beside the stages (HTTP, log, a run's other threads)": max(0.0, server - counted),
        "the load's": load,
        "nobody's": max(0.0, machine - server - load),
    }.items():
        rows[name] = [f"{1e6 * seconds / requests:.0f}", "", f"{100 * seconds / machine:.1f} %"]
    table(f"Stages, {case}", ("us a request", "of the work", "of the machine"), rows)
