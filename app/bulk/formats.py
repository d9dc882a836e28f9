"""Formats tells the format of a file from its name or from an option."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.bulk.errors import BulkError

Kind = Literal["text", "jsonl", "csv", "parquet"]

_SUFFIXES: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_KINDS: tuple[Kind, ...] = ("text", "jsonl", "csv", "parquet")
_SPELLED = "text, jsonl, csv, text.gz, jsonl.gz, csv.gz or parquet"


@dataclass(frozen=True)
class Format:
    """Names a kind of file, and says whether it is compressed by gzip."""

    kind: Kind
    gzipped: bool = False

    def __str__(self) -> str:
        return self.kind + ".gz" * self.gzipped


def input_format(path: Path | None, given: str | None) -> Format:
    """Return the format of an input: `given`, or else that of the name; `path` is None for standard input.

    Raises:
        BulkError: the format is unknown, or standard input cannot have it.
    """
    if given is not None:
        found = _parse(given, "--format")
        found = Format(found.kind, found.gzipped or _gzipped(path))
    elif path is None:
        raise BulkError(f"-: standard input has no name to tell its format by; give --format ({_SPELLED})")
    else:
        found = _of_name(path, "--format")
    return _possible(found, path, "input")


def output_format(path: Path | None, given: str | None) -> Format:
    """Return the format of an output, as `input_format` does; standard output has JSONL by default.

    Raises:
        BulkError: the format is unknown, has no place for entities, or cannot be streamed.
    """
    if given is not None:
        found = _parse(given, "--output-format")
        found = Format(found.kind, found.gzipped or _gzipped(path))
    else:
        found = Format("jsonl") if path is None else _of_name(path, "--output-format")
    if found.kind == "text":
        raise BulkError(
            f"{path or '-'}: plain text has no place for entities; write .jsonl, .csv or .parquet, or give "
            "--output-format"
        )
    return _possible(found, path, "output")


def _possible(found: Format, path: Path | None, what: str) -> Format:
    if found.kind == "parquet" and found.gzipped:
        raise BulkError(f"{path or '-'}: a Parquet file is compressed inside; name it .parquet")
    if found.kind == "parquet" and path is None:
        raise BulkError(f"-: Parquet cannot be a stream; name a file as {what}")
    return found


def _gzipped(path: Path | None) -> bool:
    return path is not None and path.suffix.lower() == ".gz"


def _of_name(path: Path, option: str) -> Format:
    gzipped = _gzipped(path)
    suffix = Path(path.stem if gzipped else path.name).suffix.lower()
    if suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise BulkError(
            f"{path}: its name does not tell its format (known: {known}, and .gz of all but Parquet); "
            f"give {option}"
        )
    return Format(_SUFFIXES[suffix], gzipped)


def _parse(given: str, option: str) -> Format:
    name = given.lower().removesuffix(".gz")
    if name not in _KINDS:
        raise BulkError(f"{option} {given}: there is no such format; give {_SPELLED}")
    return Format(name, given.lower().endswith(".gz"))
