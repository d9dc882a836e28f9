"""More than the machine can do: 3 and 10 times its capacity, clients that hang up, and large requests.

Requests of 64 texts arrive at random, whether or not those before were answered. Beside them somebody sends
a sentence now and then, before, during and after. Capacity is what four such clients get in a closed loop.
Then two clients send requests of the largest size that is allowed, and somebody sends short ones meanwhile.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.load import Answer, Load, Plan, Result, poisson
from tests.bench.processes import Served, ours
from tests.bench.report import Options, percentile, table
from tests.bench.throughput import Case, described, ner_request, requests_of, take_turn, version_of

SIZE = 64
TIMEOUT_MS = 2_000
BEFORE, AFTER = 2.0, 4.0
"""Seconds of the sentences alone, before the flood and after."""

RAMP = 2.0
"""Seconds after which the flood counts."""

SENTENCES = 20.0
"""A second."""

EVERY = 0.05
"""Seconds between two short requests beside large ones."""

SHORT, LARGE, LARGE_TEXTS = 2_000, 250_000, 8
"""Characters of a short request, and of each text of a large one."""

HANG_UP = 0.1
MOST_CONNECTIONS = 900
"""Fewer than a process may commonly open files."""


@dataclass(frozen=True)
class Flood:
    """What came of one.

    Attributes:
        end: when the last request came, by `time.perf_counter()`.
        rss: resident bytes before, at most, and after.
        busy_after: share of one processor that the server took, from half a second after the end for one.
    """

    answers: Result
    sentences: Result
    begin: float
    end: float
    rss: tuple[int, int, int]
    busy_after: float

    def sentence_seconds(self, start: float, end: float) -> list[float]:
        """Those of the sentences that came between two points of time that were answered 200."""
        since = self.sentences.started
        return [
            answer.seconds
            for answer in self.sentences.answers
            if start <= answer.due + since < end and answer.status == 200
        ]


def run(options: Options) -> None:
    seconds = max(3 * options.seconds, 3.0)
    with ours(options) as server:
        version_of(server, options)
        case = Case(4, SIZE)
        take_turn(server.port, case, options, 1.0)
        capacities = [take_turn(server.port, case, options).rate]
        floods: dict[str, Flood] = {}
        for times in (3, 10):
            name = f"{times} times"
            floods[name] = _flood(server, options, times * capacities[-1] / SIZE, seconds, None)
            capacities.append(take_turn(server.port, case, options).rate)
        name = f"3 times, hang up after {1e3 * HANG_UP:.0f} ms"
        floods[name] = _flood(server, options, 3 * capacities[-1] / SIZE, seconds, HANG_UP)
        capacities.append(take_turn(server.port, case, options).rate)
        _beside_large(server, options, max(5 * options.seconds, 10.0))
    capacity = median(capacities)
    title = (
        f"Overload: requests of {SIZE} texts ({described(options.texts)}) with "
        f"X-Request-Timeout-Ms {TIMEOUT_MS}, {seconds:g} s each; capacity {capacity:.0f} texts/s, "
        f"measured between them {min(capacities):.0f}-{max(capacities):.0f}"
    )
    _show_flood(title, floods, capacity)
    _show_sentences(floods)


def _beside_large(server: Served, options: Options, seconds: float) -> None:
    """Short requests, every one of which should be 200, beside two clients that send large ones."""
    prose = " ".join(options.texts)
    short = ner_request([prose[:SHORT]])
    arrivals = tuple(EVERY * number for number in range(int(seconds / EVERY)))
    rows = {}
    for name, text in {
        "prose": prose * (1 + LARGE // len(prose)),
        "exclamation marks": "!" * LARGE,
    }.items():
        request = ner_request([text[:LARGE]] * LARGE_TEXTS)
        rss = [server.rss]
        with Load(Plan(server.port, (request,), seconds, 2)) as large:
            with Load(Plan(server.port, (short,), 10.0, 100, arrivals)) as quiet:
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    rss.append(server.rss)
                    time.sleep(0.1)
                answers = quiet.result().answers
            sent = large.result().answers
        time.sleep(AFTER)
        took = [1e3 * answer.seconds for answer in answers]
        rows[name] = [
            f"{len(answers)}",
            f"{len(answers) - len(_with(answers, 200))}",
            *(f"{value:.0f}" for value in (median(took), percentile(took, 0.99), max(took))),
            f"{len(_with(sent, 200))} of {len(sent)}",
            f"{rss[0] / 1e6:.0f} {max(rss) / 1e6:.0f} {server.rss / 1e6:.0f}",
        ]
    table(
        f"A request of {SHORT} characters every {1e3 * EVERY:.0f} ms beside two clients that send "
        f"{LARGE_TEXTS} texts of {LARGE:,} characters, {seconds:g} s",
        ("requests", "not 200", "p50 ms", "p99 ms", "max ms", "large: 200", "MB before, most, after"),
        rows,
    )


def _flood(server: Served, options: Options, rate: float, seconds: float, hang_up: float | None) -> Flood:
    headers = f"X-Request-Timeout-Ms: {TIMEOUT_MS}\r\n"
    requests = requests_of(options.texts, SIZE, headers)
    arrivals = poisson(rate, seconds)
    plan = Plan(server.port, requests, 3.0, MOST_CONNECTIONS, arrivals, hang_up=hang_up)
    singles = tuple(ner_request([text]) for text in options.texts)
    whole = BEFORE + seconds + AFTER + 1.0
    quiet = Plan(server.port, singles, 5.0, 100, poisson(SENTENCES, whole, seed=2))
    rss = [server.rss]
    with Load(quiet) as sentences:
        time.sleep(BEFORE)
        begin = time.perf_counter()
        with Load(plan) as flood:
            while time.perf_counter() < begin + seconds:
                rss.append(server.rss)
                time.sleep(0.1)
            time.sleep(0.5)
            busy = server.cpu_seconds
            time.sleep(1.0)
            busy = server.cpu_seconds - busy
            answers = flood.result()
        quiet_answers = sentences.result()
    rss.append(server.rss)
    start = answers.started
    return Flood(answers, quiet_answers, start, start + arrivals[-1], (rss[0], max(rss), rss[-1]), busy)


def _show_flood(title: str, floods: dict[str, Flood], capacity: float) -> None:
    rows = {}
    for name, flood in floods.items():
        everything = flood.answers.answers
        length = flood.end - flood.begin
        good = _with(everything, 200)
        refused = _with(everything, 429)
        in_time = [answer for answer in good if answer.seconds <= TIMEOUT_MS / 1e3]
        texts = SIZE * sum(RAMP <= answer.done < length for answer in in_time)
        texts += len(flood.sentence_seconds(flood.begin + RAMP, flood.end))
        goodput = texts / (length - RAMP)
        expired, hung_up = _with(everything, 504), _with(everything, 0)
        others = len(everything) - sum(map(len, (good, refused, expired, hung_up)))
        before, most, after = flood.rss
        rows[name] = [
            str(len(everything)),
            f"{100 * goodput / capacity:.0f} %",
            f"{len(good)}",
            f"{len(good) - len(in_time)}",
            f"{len(expired)}",
            f"{100 * len(refused) / len(everything):.0f} %",
            f"{1e3 * percentile([a.seconds for a in refused], 0.99):.0f}" if refused else "",
            _range([answer.retry_after for answer in refused]),
            str(len(hung_up)),
            str(others),
            f"{before / 1e6:.0f} {most / 1e6:.0f} {after / 1e6:.0f}",
            f"{100 * flood.busy_after:.0f} %",
        ]
    columns = ("requests", "goodput", "200", "late", "504", "429", "429 p99 ms", "retry_after s")
    more = ("hung up", "other", "MB before, most, after", "CPU 1 s later")
    table(title, (*columns, *more), rows)


def _show_sentences(floods: dict[str, Flood]) -> None:
    rows = {}
    for name, flood in floods.items():
        end = flood.end
        parts = {
            "before": (flood.sentences.started, flood.begin),
            "during": (flood.begin + RAMP, end),
            "0-1 s after": (end, end + 1),
            "1-4 s after": (end + 1, end + AFTER),
        }
        cells = []
        for start, stop in parts.values():
            seconds = flood.sentence_seconds(start, stop)
            cells += [f"{1e3 * median(seconds):.0f}", f"{1e3 * max(seconds):.0f}"] if seconds else ["", ""]
        refused = sum(answer.status != 200 for answer in flood.sentences.answers)
        rows[name] = [*cells, str(refused)]
    columns = [f"{part} {what}" for part in parts for what in ("p50", "max")]
    table(
        f"A sentence now and then ({SENTENCES:g} a second), milliseconds before, during and after",
        [*columns, "not 200"],
        rows,
    )


def _with(answers: Sequence[Answer], status: int) -> list[Answer]:
    return [answer for answer in answers if answer.status == status]


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f}, {median(values):.2f}, {max(values):.2f}" if values else ""
