"""Resident memory while 100,000 requests (`--requests`) of random lengths run."""

from math import log
from random import Random

from tests.bench.load import Plan
from tests.bench.load import run as load
from tests.bench.processes import ours
from tests.bench.report import Options, table
from tests.bench.texts import sentence
from tests.bench.throughput import ner_request, version_of

REQUESTS = 100_000
CLIENTS = 16
PARTS = 10
LONGEST = 200
"""Words. Half of the texts have fewer than fifteen: all magnitudes are as frequent."""

TEXTS = 2_000
"""Different ones."""


def run(options: Options) -> None:
    random = Random(1)
    lengths = [round(2.718281828 ** (random.random() * log(LONGEST))) for _ in range(TEXTS)]
    requests = [ner_request([sentence(max(1, words), random)]) for words in lengths]
    part = max(CLIENTS, (options.requests or REQUESTS) // PARTS)
    with ours(options) as server:
        resident, failed = [server.rss], 0
        version_of(server, options)
        for _ in range(PARTS):
            random.shuffle(requests)
            result = load(Plan(server.port, tuple(requests), 3_600.0, CLIENTS, count=part))
            failed += sum(answer.status != 200 for answer in result.answers)
            resident.append(server.rss)
    columns = ["start", *(f"{100 * number // PARTS} %" for number in range(1, PARTS + 1))]
    table(
        f"Resident memory, MB, during {PARTS * part:,} requests of 1-{LONGEST} words, c={CLIENTS}, "
        f"{failed} failed",
        columns,
        {options.model: [f"{rss / 1e6:.0f}" for rss in resident]},
    )
    half = resident[PARTS // 2]
    print(
        f"At the end {resident[-1] / 1e6:.0f} MB (aim 220), "
        f"{100 * (resident[-1] / half - 1):+.1f} % over the last half\n",
        flush=True,
    )
