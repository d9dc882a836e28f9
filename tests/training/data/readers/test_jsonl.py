import json
from pathlib import Path
from typing import Any

import pytest

from tests.texts import AWKWARD
from training.data.documents import Span
from training.data.readers import jsonl, read


def write(folder: Path, *records: object) -> Path:
    path = folder / "own.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "record",
    [
        {"text": "Lund met Ada", "entities": [{"start": 0, "end": 4, "label": "PER"}, [9, 12, "PER"]]},
        {"text": "Lund met Ada", "spans": [[9, 12, "PER"], [0, 4, "PER"]]},
        {"id": 7, "text": "Lund met Ada", "label": [[0, 4, "PER"], [9, 12, "PER"]]},
    ],
)
def test_every_spelling_gives_the_same_spans(tmp_path: Path, record: dict[str, Any]) -> None:
    (document,) = jsonl.read(write(tmp_path, record))
    assert document.text == "Lund met Ada"
    assert document.spans == (Span(0, 4, "PER"), Span(9, 12, "PER"))
    assert document.id == "own.jsonl:1"


def test_offsets_are_code_points_of_any_text(tmp_path: Path) -> None:
    records = [
        {"text": f"{odd} Lund", "entities": [[len(odd) + 1, len(odd) + 5, "PER"]]} for odd in AWKWARD
    ]
    for document, odd in zip(jsonl.read(write(tmp_path, *records)), AWKWARD, strict=True):
        ((start, end, _),) = document.spans
        assert document.text == f"{odd} Lund"
        assert document.text[start:end] == "Lund"


def test_blank_lines_are_skipped_and_groups_kept(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('\ufeff{"text": "a", "group": "g"}\n\n{"text": "b"}\n', encoding="utf-8")
    first, second = jsonl.read(path)
    assert (first.group, second.group) == ("g", "")
    assert second.id == "own.jsonl:3"


@pytest.mark.parametrize(
    "span", [[0, 0, "PER"], [5, 4, "PER"], [0, 99, "PER"], [-1, 2, "PER"], [2, 5, "ORG"]]
)
def test_a_span_that_cannot_be_is_refused(tmp_path: Path, span: list[object]) -> None:
    path = write(tmp_path, {"text": "Ada Lund", "entities": [[0, 3, "PER"], span]})
    with pytest.raises(ValueError, match=r"own.jsonl:1: entity"):
        list(jsonl.read(path))


@pytest.mark.parametrize(
    "line", ["{", '{"entities": []}', "7", '{"text": "a", "entities": [{"start": 0}]}', '{"text": 7}']
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"own\.jsonl:2: not in the format"):
        read("jsonl", path, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"own.jsonl: no such file or folder; check data_root"):
        read("jsonl", tmp_path / "own.jsonl", {})
