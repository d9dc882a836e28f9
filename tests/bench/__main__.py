"""`python -m tests.bench [NAME …]`: run the benchmarks, all of them where none is named."""

import argparse
import signal
import sys
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
from tests.bench.texts import news

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
    parser.add_argument("--texts", type=Path, help="texts to send, one a line; default 500 made up")
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
    texts = tuple(news()) if arguments.texts is None else _read_texts(arguments.texts)
    if not texts:
        parser.error(f"{arguments.texts} holds no text; write one a line")
    options = Options(
        arguments.models.resolve(),
        arguments.model,
        arguments.requests,
        arguments.swaps,
        texts,
        arguments.seconds,
        arguments.turns,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    print(machine(), flush=True)
    for name in arguments.names or BENCHMARKS:
        known[name].run(options)


def _read_texts(path: Path) -> tuple[str, ...]:
    return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


if __name__ == "__main__":
    main()
