"""Corpora of our own making, in every format, and the answers of the tiny model to them."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from app.annotate import Wanted
from app.bulk.formats import input_format, output_format
from app.bulk.job import Job
from app.bulk.journal import InputIdentity, Setup
from app.versions.loading.options import LoadOptions

NAMES = ("Angela Merkel", "IBM", "New York", "nobody", "北京", "🗼")

SETUP = Setup(
    input=InputIdentity(format="text"),
    output_format="jsonl",
    field="text",
    model="ner-en",
    version=1,
    manifest_sha256="0" * 64,
    provider="cpu",
    variant="auto",
    labels=None,
    min_score=0,
    offset_unit="codepoint",
    max_text_chars=10,
)
"""What a run was begun with."""


def texts(count: int) -> list[str]:
    """Short texts, no two alike, some without an entity."""
    return [f"{number} {NAMES[number % len(NAMES)]}, at {number % 7}." for number in range(count)]


def job(models: Path, source: Path | None, output: Path | None, **changes: Any) -> Job:
    """A job for `ner-en/1`, its formats as the names say."""
    forms = {"form": None, "output_form": None} | {
        name: changes.pop(name) for name in ("form", "output_form") if name in changes
    }
    fields: dict[str, Any] = {
        "source": source,
        "source_format": input_format(source, forms["form"]),
        "output": output,
        "output_format": output_format(output, forms["output_form"]),
        "field": "text",
        "wanted": Wanted(),
        "offset_unit": "codepoint",
        "folder": models / "ner-en/1",
        "load": LoadOptions(provider="auto", threads=1),
        "max_text_chars": 10_000,
    }
    return Job(**(fields | changes))


def write_corpus(path: Path, of: Sequence[str]) -> Path:
    """Texts in the format of the name, with a number beside each where that has a place."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        columns = {"id": list(range(len(of))), "text": pyarrow.array(of, pyarrow.string())}
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=150)
        return path
    if name.endswith(".txt"):
        content = "".join(f"{text}\n" for text in of)
    elif name.endswith(".jsonl"):
        content = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(of))
    else:
        made = io.StringIO(newline="")
        csv.writer(made).writerows([["id", "text"], *([number, text] for number, text in enumerate(of))])
        content = made.getvalue()
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def read_corpus(path: Path) -> list[dict[str, Any]]:
    """The records of an output, entities parsed."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    raw = path.read_bytes()
    content = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in content.split("\n")[:-1]]
    records = csv.DictReader(io.StringIO(content, newline=""))
    return [record | {"entities": json.loads(record["entities"])} for record in records]


def rejected(output: Path) -> list[dict[str, Any]]:
    """What was set aside of a run."""
    path = output.with_name(output.name + ".rejected.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
