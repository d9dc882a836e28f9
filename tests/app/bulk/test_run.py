"""A corpus through a tiny model: every format, and what comes out of each record."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.annotate import Annotator, Wanted
from app.bulk.errors import BadRecord, BulkError, OutputExists
from app.bulk.run import annotate
from app.errors import InferenceFailed
from app.rendering import OffsetUnit, render
from app.versions.loading.loader import load_version
from tests.app.bulk.corpora import job, read_corpus, rejected, texts, write_corpus
from tests.tiny import POISON, TEXT

EVERYTHING = Wanted()


def entities(
    models: Path, of: list[str], wanted: Wanted = EVERYTHING, unit: OffsetUnit = "codepoint"
) -> list[list[dict[str, Any]]]:
    """As `POST /ner` has them."""
    loaded = load_version(models / "ner-en/1")
    try:
        annotator = Annotator(loaded, wanted)
        found = annotator.kept(annotator.submit(of).result())
    finally:
        loaded.close()
    return [render(text, one.entities, unit) for text, one in zip(of, found, strict=True)]


@pytest.mark.parametrize("source", ["in.txt", "in.txt.gz", "in.csv", "in.csv.gz", "in.parquet"])
@pytest.mark.parametrize("output", ["out.jsonl", "out.jsonl.gz", "out.csv", "out.csv.gz", "out.parquet"])
def test_any_format_becomes_any_other(models_dir: Path, tmp_path: Path, source: str, output: str) -> None:
    of = texts(300)
    write_corpus(tmp_path / source, of)
    annotate(job(models_dir, tmp_path / source, tmp_path / output))
    found = read_corpus(tmp_path / output)
    assert [record["text"] for record in found] == of
    assert [record["entities"] for record in found] == entities(models_dir, of)
    if "txt" not in source:
        assert [int(record["id"]) for record in found] == list(range(300))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source, output, "models"])


def test_what_was_in_a_json_record_comes_out_to_the_byte(models_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    kept = r'{"n": 12345678901234567890.10, "text":"\u0049BM", "n": 1e400, "deep": {"a": [null]} '
    source.write_text(f"{kept}}}\n\n   \n" + '{"entities": ["old"], "text": "x"}', encoding="utf-8")
    annotate(job(models_dir, source, output))
    first, second = output.read_text().splitlines()
    entity = '[{"text":"IBM","label":"ORG","start":0,"end":3,"score":'
    assert first.startswith(kept + ',"entities":' + entity)
    assert json.loads(second) == {"text": "x", "entities": []}


def test_a_field_and_options_may_be_named(models_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"body": "🗼 " + TEXT}))
    wanted = Wanted(labels=["ORG", "LOC"], min_score=0.99)
    annotate(job(models_dir, source, output, field="body", wanted=wanted, offset_unit="utf16"))
    (record,) = read_corpus(output)
    assert record["entities"] == entities(models_dir, [record["body"]], wanted, "utf16")[0]
    found = [(entity["text"], entity["start"]) for entity in record["entities"]]
    assert ("IBM", 3 + TEXT.index("IBM")) in found
    assert "Angela Merkel" not in dict(found)


def test_parquet_columns_keep_their_types(models_dir: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    columns = pyarrow.table(
        {
            "when": pyarrow.array([1, None, 3], pyarrow.timestamp("ms", "UTC")),
            "entities": ["old", "old", "old"],
            "tags": [["a"], [], None],
            "text": pyarrow.array(["IBM", None, "x"]).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(columns, source)
    annotate(job(models_dir, source, output))
    found = pyarrow.parquet.read_table(output)
    assert found.drop_columns("entities").equals(columns.drop_columns("entities").take([0, 2]))
    assert found["entities"].to_pylist() == entities(models_dir, ["IBM", "x"])
    (reject,) = rejected(output)
    assert (reject["row"], reject["code"]) == (2, "not_a_string")


def test_texts_of_any_length_are_read_to_their_end(models_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("a " * 40_000 + "IBM\n" + "IBM\n" + "b " * 49_000 + "New York")
    annotate(job(models_dir, source, output, max_text_chars=100_000))
    found = [[entity["text"] for entity in record["entities"]] for record in read_corpus(output)]
    assert found == [["IBM"], ["IBM"], ["New York"]]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_nothing_becomes_nothing(models_dir: Path, tmp_path: Path, kind: str) -> None:
    source, output = write_corpus(tmp_path / f"in.{kind}", []), tmp_path / "out.jsonl"
    annotate(job(models_dir, source, output))
    assert output.read_bytes() == b""


def test_bad_records_are_set_aside_with_their_reasons(models_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = ['{"text": "IBM"}', "{not json}", '["IBM"]', '{"body": "IBM"}', '{"text": "last"}']
    source.write_text("\n".join(lines))
    said = annotate(job(models_dir, source, output))
    assert [record["text"] for record in read_corpus(output)] == ["IBM", "last"]
    found = rejected(output)
    assert [(one["line"], one["code"], one["record"]) for one in found] == [
        (2, "invalid_json", "{not json}"),
        (3, "invalid_json", '["IBM"]'),
        (4, "missing_field", '{"body": "IBM"}'),
    ]
    assert found[2]["reason"] == "no field 'text' (it has 'body')"
    assert "2 records" in said
    assert f"3 set aside in {output}.rejected.jsonl (2 invalid_json, 1 missing_field)" in said


def test_a_text_that_the_model_fails_on_is_set_aside_alone(models_dir: Path, tmp_path: Path) -> None:
    of = texts(400)
    of[7] = of[200] = POISON
    source, output = write_corpus(tmp_path / "in.parquet", of), tmp_path / "out.parquet"
    annotate(job(models_dir, source, output))
    assert [one["text"] for one in read_corpus(output)] == [text for text in of if text != POISON]
    assert [(one["row"], one["code"]) for one in rejected(output)] == [
        (8, "inference_failed"),
        (201, "inference_failed"),
    ]


def test_a_model_that_fails_on_everything_is_an_error(models_dir: Path, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.txt", [POISON] * 10)
    with pytest.raises(InferenceFailed, match=r"in\.txt: line 3: 3 records in a row failed"):
        annotate(job(models_dir, source, tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


def test_strict_makes_the_first_bad_record_an_error(models_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "IBM"}\n{}\n')
    with pytest.raises(BadRecord, match=r"in\.jsonl: line 2: no field 'text' \(it has none\); mend it, or"):
        annotate(job(models_dir, source, output, strict=True))
    annotate(job(models_dir, source, output))
    assert len(read_corpus(output)) == len(rejected(output)) == 1


def test_an_output_is_replaced_only_by_force(models_dir: Path, tmp_path: Path) -> None:
    source, output = write_corpus(tmp_path / "in.txt", ["IBM"]), tmp_path / "out.jsonl"
    stale = tmp_path / "out.jsonl.rejected.jsonl"
    output.write_text("precious")
    stale.write_text("old")
    with pytest.raises(OutputExists, match=r"out\.jsonl: is there already; --force replaces it"):
        annotate(job(models_dir, source, output))
    assert output.read_text() == "precious"
    annotate(job(models_dir, source, output, force=True))
    assert len(read_corpus(output)) == 1
    assert not stale.exists()


def test_what_cannot_be_done_leaves_nothing_behind(models_dir: Path, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.csv", ["IBM"])
    with pytest.raises(BulkError, match="no column 'body'"):
        annotate(job(models_dir, source, tmp_path / "out.csv", field="body"))
    assert {path.name for path in tmp_path.iterdir()} == {"models", "in.csv"}


def test_a_gzip_file_that_was_cut_off_is_an_error(models_dir: Path, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "in.jsonl.gz", texts(500))
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(
        BulkError, match=r"in\.jsonl\.gz: is no whole gzip file: it cannot be read on after"
    ):
        annotate(job(models_dir, source, tmp_path / "out.jsonl"))
