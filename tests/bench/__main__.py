"""`python -m tests.bench [NAME …]`: run the benchmarks, all of them where none is named."""

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path

from tests.bench import (
    annotate,
    compare,
    latency,
    memory,
    overload,
    quick,
    schedule,
    start,
    swap,
    throughput,
)
from tests.bench.report import Options, machine
from tests.bench.texts import SETS

BENCHMARKS = {
    "throughput": throughput,
    "annotate": annotate,
    "peers": compare,
    "latency": latency,
    "overload": overload,
    "memory": memory,
    "schedule": schedule,
    "start": start,
    "swap": swap,
}
ASKED_FOR = {"quick": quick}
"""What runs only where it is named."""

BY_LENGTH = {"throughput", "annotate", "peers", "latency", "schedule", "quick"}
"""Benchmarks of which the length of the sentences is a part: they run once for each set of texts."""


def main() -> None:
    known = BENCHMARKS | ASKED_FOR
    listed = "\n".join(
        f"  {name:10}  {(module.__doc__ or '').splitlines()[0]}" for name, module in known.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=f"Benchmarks of the service; they assert nothing.\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; default all")
    parser.add_argument("--models", type=Path, default=Path("models"), help="models folder")
    parser.add_argument("--model", default="ner-en", help="model in it")
    parser.add_argument(
        "--words",
        type=int,
        action="append",
        choices=sorted(SETS),
        help="send sentences of 13 or of 23 words on average; twice: of both in turn; default 23",
    )
    parser.add_argument("--texts", type=Path, help="texts to send instead, one a line")
    parser.add_argument("--json", type=Path, help="where `peers` writes its figures; one set of texts")
    parser.add_argument("--seconds", type=float, default=4, help="length of a turn")
    parser.add_argument("--turns", type=int, default=5, help="turns of what is compared")
    parser.add_argument("--requests", type=int, help="requests of a measurement that counts them")
    parser.add_argument("--swaps", type=int, default=50, help="changes of the version that serves")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not (arguments.models / arguments.model).is_dir():
        parser.error(
            f"{arguments.models / arguments.model} is no folder; name another with --models and --model"
        )
    sets = _sets(arguments)
    if arguments.json is not None and len(sets) > 1:
        parser.error("--json holds the figures of one set of texts; name one with --words")
    options = Options(
        arguments.models.resolve(),
        arguments.model,
        arguments.requests,
        arguments.swaps,
        sets[0],
        arguments.seconds,
        arguments.turns,
        arguments.json,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    print(machine(), flush=True)
    for name in arguments.names or BENCHMARKS:
        for texts in sets if name in BY_LENGTH else sets[:1]:
            known[name].run(replace(options, texts=texts))


def _sets(arguments: argparse.Namespace) -> list[tuple[str, ...]]:
    """The texts of the file that is named, else those that are made up here.

    Raises:
        SystemExit: the file holds no text.
    """
    if arguments.texts is None:
        return [tuple(SETS[words]()) for words in dict.fromkeys(arguments.words or [23])]
    lines = arguments.texts.read_text(encoding="utf-8").splitlines()
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        sys.exit(f"{arguments.texts} holds no text; write one a line")
    return [texts]


if __name__ == "__main__":
    main()
