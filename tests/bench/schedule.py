"""The loss of the queue's batches against the best possible split, simulated.

`Queue` decides which rows run together, as it does in service; clients and runners are simulated. The
best split knows all rows beforehand, which no server does; the best split of what waits at a time, each
client's request once, shows how much of the loss is owed to that. Costs are this machine's, where batches
hardly get cheaper by being larger, and those of one that needs larger ones.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from random import Random

from app.engine.batching.queue import Queue
from app.engine.batching.size_classes import Flow
from app.engine.runtimes.cost import Cost
from app.engine.runtimes.cpu import BATCH_TOKENS
from tests.bench.offline import Offline
from tests.bench.report import Options, table
from tests.bench.split import best_split
from tests.bench.texts import news, sentence

ROWS = 4_096
"""Rows of each simulation."""


_NEEDS_LARGE = Cost(1e-3, 1e-5)
"""An accelerator, say."""


@dataclass(eq=False)
class Request:
    """A client's request on its way."""

    flow: Flow
    left: int


@dataclass(frozen=True, eq=False)
class Row:
    """One window of it."""

    request: Request
    length: int
    deadline: float = inf


@dataclass(frozen=True)
class Crowd:
    """Clients in a closed loop, and the texts of a request."""

    clients: int
    texts: int = 1

    def __str__(self) -> str:
        return f"c={self.clients}" if self.texts == 1 else f"c={self.clients}, {self.texts} texts a request"


CROWDS = (Crowd(16), Crowd(64), Crowd(256), Crowd(4, 64), Crowd(1, ROWS))


def run(options: Options) -> None:
    version = max(
        int(path.name) for path in (options.models / options.model).iterdir() if path.name.isdecimal()
    )
    offline = Offline(options, version, [1])
    machines = {"this machine": (offline.cost[1], BATCH_TOKENS), "another": (_NEEDS_LARGE, 65_536)}
    for machine, (cost, largest) in machines.items():
        token, pair = 1e6 * cost.per_token, 1e9 * cost.per_token * cost.pair
        print(
            f"On {machine} a batch costs {1e3 * cost.fixed:.2f} ms, {token:.1f} us a sub-token, "
            f"{token * cost.padding:.1f} us padding, and {pair:.0f} ns a pair; {offline.cpus} runners\n"
        )
        for name, lengths in _distributions(options, offline).items():
            _show(f"{name}, on {machine}", lengths, cost, offline.cpus, largest)


def _show(title: str, lengths: Sequence[int], cost: Cost, runners: int, largest: int) -> None:
    _, best = best_split(sorted(lengths), cost, largest)
    rows = {}
    for crowd in CROWDS:
        batches = simulate(lengths, cost, crowd, runners, largest)
        padded = sum(size * longest for size, longest, _ in batches)
        spent = sum(cost.of(*batch) for batch in batches)
        at_once = crowd.clients * crowd.texts
        known = sum(
            best_split(sorted(lengths[at : at + at_once]), cost, largest)[1]
            for at in range(0, len(lengths), at_once)
        )
        rows[str(crowd)] = [
            f"{len(lengths) / len(batches):.1f}",
            f"{100 * (padded / sum(lengths) - 1):.1f} %",
            f"{100 * (spent / best - 1):.1f} %",
            f"{100 * (known / best - 1):.1f} %",
        ]
    mean = sum(lengths) / len(lengths)
    table(
        f"{title}: {len(lengths)} rows of {mean:.1f} sub-tokens on average, {min(lengths)}-{max(lengths)}",
        ("rows a batch", "padding", "loss to the best split", "loss of the best of what waits"),
        rows,
    )


def _distributions(options: Options, offline: Offline) -> dict[str, list[int]]:
    """Lengths in the order in which they come."""
    random = Random(1)
    mixed = news(ROWS // 2, seed=2) + [sentence(random.randint(60, 90), random) for _ in range(ROWS // 64)]
    random.shuffle(mixed)
    kinds = {
        "The texts": list(options.texts),
        "Headlines": [sentence(random.randint(4, 9), random) for _ in range(ROWS // 2)],
        "Sentences, and a long one among 32": mixed,
    }
    found = {}
    for name, texts in kinds.items():
        lengths = offline.lengths(texts)
        found[name] = [random.choice(lengths) for _ in range(ROWS)]
    return found


def simulate(
    lengths: Sequence[int], cost: Cost, crowd: Crowd, runners: int, max_tokens: int
) -> list[tuple[int, int, int]]:
    """Rows, longest row and sub-tokens of each batch that runs until all rows have.

    A runner that becomes free takes its next batch before those whom its last one answered send again.
    """
    queue: Queue[Row] = Queue()
    waiting = iter([lengths[at : at + crowd.texts] for at in range(0, len(lengths), crowd.texts)])
    numbers, batches, free, now = count(), list[tuple[int, int, int]](), runners, 0.0
    running: list[tuple[float, int, list[Row]]] = []

    def send() -> None:
        if some := next(waiting, None):
            request = Request(Flow(sum(some)), len(some))
            queue.add(request.flow, [Row(request, length) for length in some])

    def start() -> None:
        nonlocal free
        while free and queue:
            batch, _ = queue.next_batch(cost, max_tokens, runners, now)
            lengths_of = [row.length for row in batch]
            shape = len(batch), max(lengths_of), sum(lengths_of)
            batches.append(shape)
            heapq.heappush(running, (now + cost.of(*shape), next(numbers), batch))
            free -= 1

    for _ in range(crowd.clients):
        send()
    start()
    while running:
        now, _, batch = heapq.heappop(running)
        free += 1
        start()
        for row in batch:
            row.request.left -= 1
            if not row.request.left:
                send()
        start()
    return batches
