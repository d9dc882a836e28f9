import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from training.data.readers import read, redocred


def mention(sentence: int, first: int, end: int, label: str) -> dict[str, Any]:
    return {"name": "", "pos": [first, end], "sent_id": sentence, "type": label, "index": "0_0"}


ARTICLE = {
    "title": "Lund (sailor)",
    "vertexSet": [
        [mention(0, 0, 2, "PER"), mention(1, 0, 1, "PER")],
        [mention(0, 4, 8, "ORG")],
        [mention(0, 7, 8, "LOC")],  # inside the one before
        [mention(1, 2, 3, "LOC"), mention(1, 2, 3, "LOC")],  # twice
    ],
    "labels": [],
    "sents": [
        ["Ada", "Lund", "led", "the", "Sailors", "of", "Kestrel", "Bay", "."],
        ["Lund", "left", "Norway", "\u00a0", "."],
    ],
}


def test_a_document_a_sentence_with_its_mentions(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps([ARTICLE]))
    first, second = redocred.read(path)
    assert first.text == "Ada Lund led the Sailors of Kestrel Bay ."
    assert [(first.text[a:b], label) for a, b, label in first.spans] == [
        ("Ada Lund", "PER"),
        ("Sailors of Kestrel Bay", "ORG"),
    ]
    assert [(second.text[a:b], label) for a, b, label in second.spans] == [
        ("Lund", "PER"),
        ("Norway", "LOC"),
    ]
    assert first.group == second.group == "own.json:Lund (sailor)"
    assert second.id == "own.json:Lund (sailor):1"


@pytest.mark.parametrize("text", ["[", '[{"title": "x"}]', '["x"]', "[[]]"])
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"own.json: not in the format of reader 'redocred'"):
        read("redocred", path, {})


def test_the_real_corpus_counts_what_it_publishes(labelled: Path) -> None:
    files = [labelled / f"redocred/{name}_revised.json" for name in ("dev", "test")]
    documents = [document for file in files for document in redocred.read(file)]
    assert len(documents) == 8076
    assert len({document.group for document in documents}) == 1000
    tokens = sum(
        len(tokens) for file in files for a in json.loads(file.read_text()) for tokens in a["sents"]
    )
    assert tokens == 200704
    found = Counter(span.label for document in documents for span in document.spans)
    published = {"PER": 4814, "LOC": 8194, "ORG": 3893, "MISC": 3926}
    for label, count in published.items():  # less those inside another
        assert 0 <= count - found[label] < 0.01 * count
