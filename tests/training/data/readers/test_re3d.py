import json
from pathlib import Path
from typing import Any

import pytest

from training.data.readers import re3d, read

TEXT = "Captain Ada Lund left Kestrel Bay.\n\nThe Kestrel Guard stayed\nin Norway."


def entity(surface: str, label: str, document: str = "A1") -> dict[str, Any]:
    begin = TEXT.index(surface)
    end = begin + len(surface)
    return {
        "_id": f"{document}-0-{begin}-{end}-{label}",
        "begin": begin,
        "end": end,
        "type": label,
        "value": surface,
        "documentId": document,
        "confidence": 1,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Harbour_Office"
    folder.mkdir()
    document = {"_id": "A1", "sourceName": "Harbour Office", "title": "Lund leaves", "text": TEXT}
    entities = [
        entity("Ada Lund", "Person"),
        entity("Captain Ada Lund", "Person"),
        entity("Kestrel Bay", "Location"),
        entity("The Kestrel Guard", "Organisation"),
        entity("stayed\nin Norway", "Location"),  # crosses a line
        entity("Norway", "Location", document="B2"),  # of a document that is not here
    ]
    write(folder / "documents.json", [document])
    write(folder / "entities.json", entities)
    return folder


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def test_a_document_a_paragraph_with_all_its_entities(folder: Path) -> None:
    documents = list(re3d.read(folder))
    assert [document.text for document in documents] == [
        "Captain Ada Lund left Kestrel Bay.",
        "The Kestrel Guard stayed",
        "in Norway.",
    ]
    assert [[(d.text[a:b], label) for a, b, label in d.spans] for d in documents] == [
        [("Captain Ada Lund", "Person"), ("Ada Lund", "Person"), ("Kestrel Bay", "Location")],
        [("The Kestrel Guard", "Organisation")],
        [],
    ]


def test_paragraphs_of_a_document_are_one_group(folder: Path) -> None:
    documents = list(re3d.read(folder))
    assert {document.group for document in documents} == {"Harbour_Office:A1"}
    assert [document.id for document in documents] == [f"Harbour_Office:A1:{n}" for n in range(3)]


def test_a_wrong_folder_is_named(folder: Path) -> None:
    (folder / "entities.json").write_text("{]\n")
    with pytest.raises(
        ValueError, match=r"Harbour_Office/entities\.json:1: not in the format of reader 're3d'"
    ):
        read("re3d", folder, {})


def test_the_real_corpus_slices(labelled: Path) -> None:
    folders = [path for path in (labelled / "re3d").iterdir() if path.is_dir()]
    documents = [document for folder in folders for document in re3d.read(folder)]
    assert len(folders) == 5
    assert len({document.group for document in documents}) == 88
    values = {
        json.loads(line)["value"].strip()
        for folder in folders
        for line in (folder / "entities.json").read_text(encoding="utf-8").splitlines()
    }
    surfaces = {d.text[span.start : span.end].strip() for d in documents for span in d.spans}
    assert len(surfaces - values) < 0.01 * len(surfaces)
