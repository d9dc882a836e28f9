"""`python -m tests.bench [NAME …]`: run the benchmarks, all of them where none is named."""

import argparse
from pathlib import Path

from tests.bench import latency, start, swap
from tests.bench.report import Options, machine

BENCHMARKS = {"start": start, "latency": latency, "swap": swap}


def main() -> None:
    listed = "\n".join(
        f"  {name:8}  {(module.__doc__ or '').splitlines()[0]}" for name, module in BENCHMARKS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=f"Benchmarks of the service; they assert nothing.\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; default all")
    parser.add_argument("--models", type=Path, default=Path("models"), help="models folder")
    parser.add_argument("--model", default="ner-en", help="model in it")
    parser.add_argument("--requests", type=int, default=500, help="requests of each measurement")
    parser.add_argument("--swaps", type=int, default=50, help="changes of the version that serves")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if not (arguments.models / arguments.model).is_dir():
        parser.error(
            f"{arguments.models / arguments.model} is no folder; name another with --models and --model"
        )
    options = Options(arguments.models.resolve(), arguments.model, arguments.requests, arguments.swaps)
    print(machine())
    for name in arguments.names or BENCHMARKS:
        BENCHMARKS[name].run(options)


if __name__ == "__main__":
    main()
