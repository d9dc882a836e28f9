"""Texts a second: the limit without a server, and ours at several concurrencies, taking turns."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.load import Plan, Result, answered
from tests.bench.load import run as load
from tests.bench.loopback import encode
from tests.bench.offline import Offline
from tests.bench.processes import Served, floor, ours
from tests.bench.report import Options, percentile, spread, table

WARM_UP = 0.5
"""Seconds at the start of each turn that do not count."""


@dataclass(frozen=True)
class Case:
    """Clients in a closed loop, and how many texts each sends at a time."""

    clients: int
    texts: int = 1

    def __str__(self) -> str:
        one = "sentence" if self.texts == 1 else f"{self.texts} texts"
        return f"{one} a request, c={self.clients}"


CASES = (Case(1), Case(16), Case(64), Case(4, 64))


@dataclass(frozen=True)
class Turn:
    """One turn of a case.

    Attributes:
        rate: texts a second.
        p50, p99: milliseconds of a request.
        load: share of one processor that the load took.
        failed: requests that were not answered 200, and count for nothing else.
    """

    rate: float
    p50: float
    p99: float
    load: float
    failed: int = 0


def run(options: Options) -> None:
    with ours(options) as server, floor() as constant:
        offline = Offline(options, version_of(server, options))
        setting = offline.best_setting(options.texts)
        limits: list[float] = []
        turns: dict[Case, list[Turn]] = {case: [] for case in CASES}
        floors: dict[Case, list[Turn]] = {case: [] for case in CASES if case.texts == 1}
        for _ in range(options.turns):
            for case in CASES:  # the limit again and again, for the machine is not the same for long
                limits.append(offline.rate(options.texts, setting, options.seconds / 2))
                turns[case].append(take_turn(server.port, case, options))
            for case in floors:
                floors[case].append(take_turn(constant.port, case, options, options.seconds / 2))
    limit = median(limits)
    rows = {
        f"limit ({setting})": [f"{limit:.0f}", "", "", "100 %", "", "", spread(limits)],
    }
    for case, taken in turns.items():
        rows[f"Nerve, {case}"] = _row(taken, limit)
    for case, taken in floors.items():
        rows[f"FastAPI that answers a constant, {case}"] = _row(taken, limit)
    table(
        f"Throughput: {described(options.texts)}, {offline.variant.precision} on {offline.provider}, "
        f"medians of {options.turns} turns of {options.seconds:g} s",
        ("texts/s", "p50 ms", "p99 ms", "of limit", "load's CPU", "failed", "spread"),
        rows,
    )


def described(texts: Sequence[str]) -> str:
    """How many texts of how many words."""
    return f"{len(texts)} texts of {mean_words(texts):.1f} words on average"


def mean_words(texts: Sequence[str]) -> float:
    """Words of a text on average, a word being what stands between blanks."""
    return sum(len(text.split()) for text in texts) / len(texts)


def _row(turns: Sequence[Turn], limit: float) -> list[str]:
    rate = median(turn.rate for turn in turns)
    return [
        f"{rate:.0f}",
        f"{median(turn.p50 for turn in turns):.2f}",
        f"{median(turn.p99 for turn in turns):.2f}",
        f"{100 * rate / limit:.0f} %",
        f"{100 * median(turn.load for turn in turns):.1f} %",
        str(sum(turn.failed for turn in turns)),
        spread([turn.rate for turn in turns]),
    ]


def version_of(server: Served, options: Options) -> int:
    """The version that serves. Asks it for a text, and so warms it.

    Raises:
        RuntimeError: it does not answer 200.
    """
    status, body = server.exchange(ner_request(options.texts[:1]))
    if status != 200:
        raise RuntimeError(f"{options.model} does not answer: {status} {body[:200]!r}")
    return int(json.loads(body)["version"])


def ner_request(texts: Sequence[str], headers: str = "") -> bytes:
    """An encoded request; one text as `text`, more as `texts`."""
    body = {"text": texts[0]} if len(texts) == 1 else {"texts": list(texts)}
    return encode("POST", "/ner", json.dumps(body).encode(), headers)


def requests_of(texts: Sequence[str], size: int, headers: str = "") -> tuple[bytes, ...]:
    """Requests of so many texts each, as many as there are texts for, at least one."""
    if size == 1:
        return tuple(ner_request([text], headers) for text in texts)
    again = list(texts) * (1 + size // len(texts))
    count = max(1, len(texts) // size)
    return tuple(ner_request(again[at * size : (at + 1) * size], headers) for at in range(count))


def take_turn(port: int, case: Case, options: Options, seconds: float | None = None) -> Turn:
    """A closed loop of some seconds, its warm-up left out."""
    # Few large requests are answered at a time, and all but as one: it takes longer to count them well.
    seconds = WARM_UP + (seconds or options.seconds) * (1 if case.texts == 1 else 2)
    result = load(Plan(port, requests_of(options.texts, case.texts), seconds, case.clients))
    return turn_of(result, case, seconds)


def turn_of(result: Result, case: Case, seconds: float) -> Turn:
    counted = result.between(WARM_UP, seconds)
    good = answered(counted)
    milliseconds = [1e3 * answer.seconds for answer in good]
    return Turn(
        len(good) * case.texts / (seconds - WARM_UP),
        median(milliseconds),
        percentile(milliseconds, 0.99),
        result.cpu_seconds / result.seconds,
        len(counted) - len(good),
    )
