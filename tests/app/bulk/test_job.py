"""What is told of a job before anything is begun, and what must stay for another process to go on."""

from pathlib import Path
from typing import Any

import pytest

from app.annotate import Wanted
from app.bulk.errors import BulkError
from app.bulk.lines import Position
from app.bulk.parquet import ParquetReader
from app.bulk.readers import CsvReader, JsonlReader, TextReader
from app.errors import Unprocessable, VersionRefused
from app.versions.loading.options import LoadOptions
from tests.app.bulk.corpora import job, write_corpus


@pytest.mark.parametrize(
    ("source", "output", "changes", "message"),
    [
        ("none.txt", "out.jsonl", {}, r"none\.txt: there is no such file"),
        ("models", "out.jsonl", {"form": "text"}, r"models: is no file; pipe it into -"),
        ("in.jsonl", "none/out.jsonl", {}, r"out\.jsonl: \S*none is no folder; make it first"),
        ("in.jsonl", "models", {"output_form": "jsonl"}, r"models: is a folder; name a file in it"),
        ("in.jsonl", "in.jsonl", {}, r"in\.jsonl: is the input; name another output"),
        ("in.jsonl", "link.jsonl", {}, r"link\.jsonl: is the input; name another output"),
        (
            "in.jsonl",
            "out.jsonl",
            {"field": "entities"},
            r"--field entities: the entities are written there",
        ),
    ],
)
def test_files_that_do_not_do_are_told(
    models_dir: Path, tmp_path: Path, source: str, output: str, changes: dict[str, Any], message: str
) -> None:
    write_corpus(tmp_path / "in.jsonl", ["IBM"])
    (tmp_path / "link.jsonl").symlink_to("in.jsonl")
    with pytest.raises(BulkError, match=message):
        job(models_dir, tmp_path / source, tmp_path / output, **changes).check()


def test_labels_and_versions_that_are_not_there_are_told(models_dir: Path, tmp_path: Path) -> None:
    source, output = write_corpus(tmp_path / "in.txt", ["IBM"]), tmp_path / "out.jsonl"
    with pytest.raises(Unprocessable, match=r"no label 'DOG' \(it has PER, ORG, LOC\)"):
        job(models_dir, source, output, wanted=Wanted(labels=["DOG"])).check()
    with pytest.raises(VersionRefused, match="ner-en/7"):
        job(models_dir, source, output, folder=models_dir / "ner-en/7").check()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("field", {"field": "body"}),
        ("labels", {"wanted": Wanted(labels=["PER"])}),
        ("min_score", {"wanted": Wanted(min_score=0.5)}),
        ("offset_unit", {"offset_unit": "byte"}),
        ("output_format", {"output_form": "csv"}),
        ("provider", {"load": LoadOptions(provider="cpu", threads=1)}),
        ("max_text_chars", {"max_text_chars": 9}),
        ("input", {"form": "csv"}),
    ],
)
def test_what_changes_the_output_changes_the_setup(
    models_dir: Path, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    source, output = write_corpus(tmp_path / "in.txt", ["IBM"]), tmp_path / "out.jsonl"
    before = job(models_dir, source, output).setup().model_dump()
    after = job(models_dir, source, output, **changes).setup().model_dump()
    assert {field for field in before if before[field] != after[field]} == {name}


def test_how_a_job_is_run_does_not_change_its_setup(models_dir: Path, tmp_path: Path) -> None:
    source, output = write_corpus(tmp_path / "in.txt", ["IBM"]), tmp_path / "out.jsonl"
    how: dict[str, Any] = {"strict": True, "force": True, "restart": True, "checkpoint_seconds": 1}
    how["load"] = LoadOptions(provider="auto", threads=2)
    assert job(models_dir, source, output, **how).setup() == job(models_dir, source, output).setup()


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("in.txt.gz", TextReader),
        ("in.jsonl", JsonlReader),
        ("in.csv", CsvReader),
        ("in.parquet", ParquetReader),
    ],
)
def test_each_format_has_its_reader(
    models_dir: Path, tmp_path: Path, name: str, made: type[object]
) -> None:
    source = write_corpus(tmp_path / name, ["IBM"])
    assert type(job(models_dir, source, tmp_path / "out.jsonl").reader()) is made


def test_a_line_has_room_for_the_longest_text_however_json_writes_it(
    models_dir: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "' + "\\ud83d\\uddfc" * 1_000_000 + '"}')
    wanted = job(models_dir, source, tmp_path / "out.jsonl", max_text_chars=1_000_000)
    (group,) = wanted.reader().groups(Position())
    assert [len(text) for text in group.texts] == [1_000_000]
