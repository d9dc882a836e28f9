from pathlib import Path

import pytest

from training.data.documents import Document
from training.data.readers import read, uner

OWN = """# newdoc id = letter-1
# sent_id = letter-1-0001
# text = "Ada Lund" (Kestrel-Werke) isn't in U.S. waters.
1	"	O	-	-
2	Ada	B-PER	-	anna
3	Lund	I-PER	-	anna
4	"	O	-	-
5	(	O	-	-
6	Kestrel	B-ORG	-	anna
7	-	I-ORG	-	anna
8	Werke	I-ORG	-	anna
9	)	O	-	-
10	is	O	-	-
11	n't	O	-	-
12	in	O	-	-
13	U.S.	B-LOC	-	anna
14	waters	O	-	-
15	.	B-O	-	anna

# sent_id = letter-1-0002
# text = Swedish is spoken.
1	Swedish	B-OTH	-	anna
2	is	O
3	spoken	O
4	.	O

# newdoc id = letter-2
# sent_id = letter-2-0001
# text = Bay Bay
1	Bay	O
2	Bay	B-LOC	-	anna
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "own.iob2"
    path.write_text(text, encoding="utf-8")
    return path


def named(document: Document) -> list[tuple[str, str]]:
    return [(document.text[start:end], label) for start, end, label in document.spans]


def test_spans_lie_in_the_raw_text(tmp_path: Path) -> None:
    first, second, third = uner.read(write(tmp_path, OWN))
    assert first.text == '"Ada Lund" (Kestrel-Werke) isn\'t in U.S. waters.'
    assert named(first) == [("Ada Lund", "PER"), ("Kestrel-Werke", "ORG"), ("U.S.", "LOC")]
    assert named(second) == [("Swedish", "OTH")]
    assert third.spans[0].start == 4


def test_documents_know_their_article_and_line(tmp_path: Path) -> None:
    documents = list(uner.read(write(tmp_path, OWN)))
    assert [document.group for document in documents] == ["letter-1", "letter-1", "letter-2"]
    assert [document.id for document in documents] == ["own.iob2:4", "own.iob2:22", "own.iob2:30"]


def test_a_tag_without_a_label_is_o(tmp_path: Path) -> None:
    (sentence, *_) = uner.read_tagged(write(tmp_path, OWN)).sentences
    assert sentence.tags[-1] == "O"
    assert sentence.lines[-1] == 18


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# text = Ada\n1\tAda\tO\n2\tLund\tO\n", "own.iob2:2: token 'Lund' does not stand"),
        ("# text = Ada\n1\tAda\tO\n\n1\tAda\tO\n", "own.iob2:4: token 'Ada' does not stand in its text ''"),
        ("# text = Ada\n1\tAda\n", "own.iob2: not in the format of reader 'uner'"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"own\.iob2") as caught:
        read("uner", write(tmp_path, text), {})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentences", "entities"),
    [
        ("uner_en_ewt/en_ewt-ud-train.iob2", 12543, {"PER": 2873, "LOC": 2698, "ORG": 1434, "OTH": 888}),
        ("uner_en_ewt/en_ewt-ud-dev.iob2", 2001, {"PER": 343, "LOC": 399, "ORG": 224}),
        ("uner_en_ewt/en_ewt-ud-test.iob2", 2077, {"PER": 449, "LOC": 317, "ORG": 322}),
        ("uner_en_pud/en_pud-ud-test.iob2", 1000, {"PER": 414, "LOC": 426, "ORG": 235}),
    ],
)
def test_the_real_corpora_count_what_they_publish(
    labelled: Path, name: str, sentences: int, entities: dict[str, int]
) -> None:
    documents = list(uner.read(labelled / name))
    assert len(documents) == sentences
    found = [span.label for document in documents for span in document.spans]
    assert {label: found.count(label) for label in set(found)} == entities
