"""What a sentence takes in a crowd: 16 clients, 70 % of saturation, and long documents among them.

Arrivals are of a Poisson process, and what a request takes counts from when it was due.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from statistics import median

from tests.bench.load import Answer, Plan, answered, evenly, poisson
from tests.bench.load import run as load
from tests.bench.offline import Offline
from tests.bench.processes import Served, ours
from tests.bench.report import Options, percentile, table
from tests.bench.texts import sentence
from tests.bench.throughput import Case, described, ner_request, requests_of, take_turn, version_of

SHARE = 0.7
"""Of saturation, in the open loop."""

LIGHT = 0.4
"""Of saturation, in the mixed load: documents come on top."""

DOCUMENT_WORDS = 5_000
BUSY = 0.25
"""Of saturation, what the documents are of the mixed load."""


@dataclass(frozen=True)
class Tail:
    """Milliseconds of the requests of one turn."""

    p50: float
    p99: float
    most: float
    failed: int = 0


def run(options: Options) -> None:
    closed: list[Tail] = []
    opened: list[Tail] = []
    without: list[Tail] = []
    mixed: list[Tail] = []
    documents: list[float] = []
    saturation: list[float] = []
    with ours(options) as server:
        offline = Offline(options, version_of(server, options), [1])
        window = _window_seconds(offline)
        document = " ".join(sentence(25, Random(number)) for number in range(DOCUMENT_WORDS // 25))
        for _ in range(options.turns):
            saturation.append(take_turn(server.port, Case(64), options).rate)
            turn = take_turn(server.port, Case(16), options)
            closed.append(Tail(turn.p50, turn.p99, turn.p99, turn.failed))
            rate = SHARE * saturation[-1]
            opened.append(_tail(_open(server, options, rate)))
            rate = LIGHT * saturation[-1]
            without.append(_tail(_open(server, options, rate)))
            sentences, long = _mixed(server, options, rate, document)
            mixed.append(_tail(sentences))
            documents += [1e3 * answer.seconds for answer in long]
    full = median(saturation)
    rows = {
        "closed loop, c=16": _row(closed),
        f"open loop, {100 * SHARE:.0f} % of saturation": _row(opened),
        f"open loop, {100 * LIGHT:.0f} % of saturation": _row(without),
        f"the same, and a document of {DOCUMENT_WORDS:,} words now and then": _row(mixed),
    }
    table(
        f"A sentence in a crowd: {described(options.texts)}, saturation {full:.0f} texts/s, medians of "
        f"{options.turns} turns of {options.seconds:g} s",
        ("p50 ms", "p99 ms", "max ms", "p99/p50", "failed"),
        rows,
    )
    added = median(tail.p99 for tail in mixed) - median(tail.p99 for tail in without)
    print(
        f"Documents delay the sentences' p99 by {added:.1f} ms; a window of {offline.manifest.max_length} "
        f"sub-tokens runs {1e3 * window:.1f} ms on one thread, two {2e3 * window:.1f} ms (aim). "
        + (f"A document takes {median(documents):.0f} ms." if documents else "No document was answered.")
        + "\n",
        flush=True,
    )


def _window_seconds(offline: Offline) -> float:
    return min(offline.run_seconds(1, offline.manifest.max_length).values())


def _open(server: Served, options: Options, rate: float) -> list[Answer]:
    """The answers of an open loop; its first tenth warms up."""
    seconds = 2 * options.seconds
    plan = Plan(server.port, requests_of(options.texts, 1), 10.0, 500, poisson(rate, seconds))
    return [answer for answer in load(plan).answers if answer.due > seconds / 10]


def _mixed(
    server: Served, options: Options, rate: float, document: str
) -> tuple[list[Answer], list[Answer]]:
    """Answers of sentences, and of documents that come among them."""
    seconds = 2 * options.seconds
    alone = Plan(server.port, (ner_request([document]),), 60.0, 1, (0.0,))
    (once,) = answered(load(alone).answers)
    every = min(once.seconds / BUSY, seconds / 2)
    singles = requests_of(options.texts, 1)
    number = len(singles)  # of the document, after the sentences
    arrivals = sorted(
        chain(
            ((due, at % number) for at, due in enumerate(poisson(rate, seconds))),
            ((due + every / 2, number) for due in evenly(1 / every, seconds)),
        )
    )
    plan = Plan(
        server.port,
        (*singles, ner_request([document])),
        10.0,
        500,
        tuple(due for due, _ in arrivals),
        tuple(request for _, request in arrivals),
    )
    answers = load(plan).answers
    return (
        [answer for answer in answers if answer.request != number and answer.due > seconds / 10],
        [answer for answer in answers if answer.request == number and answer.status == 200],
    )


def _tail(answers: Sequence[Answer]) -> Tail:
    good = [1e3 * answer.seconds for answer in answered(answers)]
    return Tail(median(good), percentile(good, 0.99), max(good), len(answers) - len(good))


def _row(tails: Sequence[Tail]) -> list[str]:
    p50, p99 = median(tail.p50 for tail in tails), median(tail.p99 for tail in tails)
    return [
        f"{p50:.1f}",
        f"{p99:.1f}",
        f"{max(tail.most for tail in tails):.1f}",
        f"{p99 / p50:.1f}",
        str(sum(tail.failed for tail in tails)),
    ]
