"""One sentence at concurrency 1 beside the session's own run; then crowds and mixed loads.

The server runs in a process of its own, the session in this one, with one thread and with all, on the very
arrays that the sentence becomes. All take turns, a block each and a pause between, so that they meet
the same machine and none meets the other's threads still spinning.
"""

import time
from collections.abc import Callable
from random import Random
from statistics import median

from app.versions.loading.loader import load_single
from app.versions.loading.options import LoadOptions
from tests.bench import crowd
from tests.bench.loopback import Connection
from tests.bench.offline import Offline
from tests.bench.processes import floor, ours
from tests.bench.report import Options, show
from tests.bench.texts import sentence
from tests.bench.throughput import mean_words, ner_request, version_of

LONGER = 1.3
"""Words of that sentence, by those of the texts on average: it has 30 words where they have 23."""

BLOCK = 20
PAUSE = 0.05


def run(options: Options) -> None:
    with ours(options) as server, floor() as constant:
        version = version_of(server, options)
        _measure(options, version, Connection(server.port), Connection(constant.port))
    crowd.run(options)


def _measure(options: Options, version: int, served: Connection, constant: Connection) -> None:
    words = round(LONGER * mean_words(options.texts))
    text = sentence(words, Random(1))
    request = ner_request([text])
    offline = Offline(options, version)
    loaded = load_single(options.models / options.model / str(version), LoadOptions(provider="auto"))
    batch = offline.batch_of(text)

    whole = "POST /ner"
    own = {f"session.run, {threads} threads, in this process": threads for threads in offline.sessions}
    cases: dict[str, Callable[[], object]] = {
        name: lambda threads=threads: offline.sessions[threads].run(batch)  # type: ignore[misc]
        for name, threads in own.items()
    }
    cases |= {
        "predictor.predict, in this process": lambda: loaded.model.predict([text]),
        "POST to FastAPI that answers a constant": lambda: constant.exchange(request),
        whole: lambda: served.exchange(request),
    }
    times = _take_turns(cases, max(1, (options.requests or 500) // BLOCK))
    best = min(own, key=lambda name: median(times[name]))
    tokens = next(iter(batch.values())).shape[1]
    medians = show(
        f"One sentence of {words} words ({tokens} sub-tokens), {offline.variant.precision} on "
        f"{offline.provider}, {len(times[best])} times each",
        "ms",
        times,
        floor=best,
    )
    print(
        f"A request takes {medians[whole] - medians[best]:.2f} ms more than the session's own run with "
        f"{own[best]} threads (p50; aim 0.6).\n"
    )
    loaded.close()


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
