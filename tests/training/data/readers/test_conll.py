from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.labels import Scheme
from tests.training.data.tagging import SCHEMES, Tagged, sentences, spell
from training.data.documents import Document
from training.data.readers import conll, read

TABS = "Ada\tB-PER\nLund\tI-PER\nleft\tO\n@\tB-PER\nkestrel\tB-PER\n.\tO\n\t\nBay\tB-LOC\n\t\n"

SPACES = """-DOCSTART- O

Ada I-PER
Lund I-PER
left O

Kestrel I-ORG
rose O
-DOCSTART- O

Bay I-LOC
"""

FOUR_COLUMNS = """-DOCSTART- -X- -X- O

Lund NNP I-NP I-ORG
beat VBD I-VP O
Bay NNP I-NP I-LOC
Kestrel NNP B-NP B-LOC

4-1 CD I-NP O
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "own.conll"
    path.write_text(text, encoding="utf-8")
    return path


def named(document: Document) -> list[tuple[str, str]]:
    return [(document.text[start:end], label) for start, end, label in document.spans]


def test_two_columns_parted_by_tabs(tmp_path: Path) -> None:
    first, second = conll.read(write(tmp_path, TABS))
    assert first.text == "Ada Lund left @ kestrel ."
    assert named(first) == [("Ada Lund", "PER"), ("@", "PER"), ("kestrel", "PER")]
    assert (first.id, first.group) == ("own.conll:1", "")
    assert (second.id, named(second)) == ("own.conll:8", [("Bay", "LOC")])


def test_io_tags_parted_by_blanks_and_articles_by_docstart(tmp_path: Path) -> None:
    path = write(tmp_path, SPACES)
    assert conll.read_tagged(path).scheme == "IO"
    documents = list(conll.read(path))
    assert [named(document) for document in documents] == [
        [("Ada Lund", "PER")],
        [("Kestrel", "ORG")],
        [("Bay", "LOC")],
    ]
    assert [document.group for document in documents] == ["own.conll:1", "own.conll:1", "own.conll:2"]


def test_four_columns_of_conll2003(tmp_path: Path) -> None:
    path = write(tmp_path, FOUR_COLUMNS)
    first, second = conll.read(path)
    assert named(first) == [("Lund", "ORG"), ("Bay", "LOC"), ("Kestrel", "LOC")]
    assert second.text == "4-1"
    assert conll.read_tagged(path).scheme == "IOB1"
    chunks, _ = conll.read(path, tag_column=2)
    assert [label for _, label in named(chunks)] == ["NP", "VP", "NP", "NP"]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(
    corpus=st.lists(sentences(), min_size=1, max_size=4),
    given=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_every_scheme_gives_the_same_documents(
    tmp_path: Path, scheme: Scheme, corpus: list[Tagged], given: bool, end: str
) -> None:
    assume(scheme != "IO" or not any(tagged.touch() for tagged in corpus))
    lines = []
    for tagged in corpus:
        rows = zip(tagged.tokens, spell(tagged, scheme), strict=True)
        lines += [*(f"{token}\t{tag}" for token, tag in rows), ""]
    path = tmp_path / "own.conll"
    path.write_bytes(end.join(lines).encode())
    documents = list(conll.read(path, scheme=scheme if given else None))
    assert [(d.text, d.spans) for d in documents] == [(t.text, t.spans) for t in corpus]


def test_odd_blanks_and_separators_stay_inside_their_line(tmp_path: Path) -> None:
    (document,) = conll.read(write(tmp_path, "a\u2028b\tO\nc\u00a0d\tB-LOC\n\tO\n\x85\tO\nLund\tB-PER\n"))
    assert document.text == "a\u2028b c\u00a0d Lund"
    assert named(document) == [("c\u00a0d", "LOC"), ("Lund", "PER")]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (document,) = conll.read(write(tmp_path, "\ufeffAda\tB-PER\n"))
    assert document.text == "Ada"


def test_the_lines_of_tokens_are_known(tmp_path: Path) -> None:
    file = conll.read_tagged(write(tmp_path, "Ada\tB-PER\n\tO\nleft\tO\n\n\nBay\tB-LOC\n"))
    assert [list(sentence.lines) for sentence in file.sentences] == [[1, 3], [6]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("Ada\tB-PER\nLund\n", {}, "own.conll:2: 'Lund' has 1 columns, 2 are needed"),
        ("Ada\tB-PER\n", {"tag_column": 3}, "has 2 columns, 4 are needed"),
        ("Ada\tPER\n", {}, "own.conll:1: 'PER' is no tag"),
        ("Ada\tB\n", {}, "'B' is no tag"),
        ("Ada\tB-PER\n", {"scheme": "IOBES"}, "scheme 'IOBES' is none of IO, IOB1, IOB2, BIOES"),
        ("Ada\tB-PER\n", {"columns": 2}, "not in the format of reader 'conll'"),
    ],
)
def test_a_wrong_file_is_named(
    tmp_path: Path, text: str, options: dict[str, str | int | bool], message: str
) -> None:
    with pytest.raises(ValueError, match=r"own\.conll") as caught:
        read("conll", write(tmp_path, text), options)
    assert message in str(caught.value)


def test_bytes_that_are_no_utf8_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "own.conll"
    path.write_bytes(b"Andr\xe9\tB-PER\n")
    with pytest.raises(ValueError, match=r"own\.conll: not in the format"):
        read("conll", path, {})


@pytest.mark.parametrize(
    ("name", "scheme", "sentences", "entities"),
    [
        ("btc/btc.train", "IOB2", 6338, {"PER": 4084, "ORG": 2665, "LOC": 2030}),
        ("btc/btc.dev", "IOB2", 1000, {"PER": 1194, "ORG": 380, "LOC": 156}),  # and a blank one
        ("btc/btc.test", "IOB2", 2001, {"PER": 2650, "ORG": 1090, "LOC": 636}),
        ("wikigold/wikigold.conll.txt", "IO", 1696, {"LOC": 1014, "PER": 934, "ORG": 898, "MISC": 712}),
        ("wnut17/wnut17train.conll", "IOB2", 3394, {"person": 660, "location": 548}),
        ("wnut17/emerging.dev.conll", "IOB2", 1009, {"person": 470, "location": 74}),
        ("wnut17/emerging.test.annotated", "IOB2", 1287, {"person": 429, "location": 150}),
    ],
)
def test_the_real_corpora_count_what_they_publish(
    labelled: Path, name: str, scheme: Scheme, sentences: int, entities: dict[str, int]
) -> None:
    file = conll.read_tagged(labelled / name)
    documents = list(file.documents())
    assert file.scheme == scheme
    assert len(documents) == sentences
    found = [span.label for document in documents for span in document.spans]
    assert {label: found.count(label) for label in entities} == entities


def test_wikigold_has_its_tokens_and_articles(labelled: Path) -> None:
    file = conll.read_tagged(labelled / "wikigold/wikigold.conll.txt")
    assert sum(len(sentence.tokens) for sentence in file.sentences) == 39007
    assert len({sentence.group for sentence in file.sentences}) == 145
