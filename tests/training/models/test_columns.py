import pytest

from training.models.columns import read_columns

IOB2 = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("names", "scheme", "tags", "labels"),
    [
        (IOB2, "IOB2", IOB2, ["PER", "LOC"]),
        (["B-LOC", "O", "B-PER", "I-PER"], "IOB2", ["B-LOC", "O", "B-PER", "I-PER"], ["LOC", "PER"]),
        (["O", "I-PER", "B-LOC", "I-LOC"], "IOB1", ["O", "I-PER", "B-LOC", "I-LOC"], ["PER", "LOC"]),
        (["O", "I-PER", "I-LOC"], "IO", ["O", "I-PER", "I-LOC"], ["PER", "LOC"]),
        (["PER", "O", "LOC"], "IO", ["I-PER", "O", "I-LOC"], ["PER", "LOC"]),
        (["O", "B-X", "I-X", "L-X", "U-X"], "BIOES", ["O", "B-X", "I-X", "E-X", "S-X"], ["X"]),
        (["O", "B-X", "M-X", "E-X", "S-X"], "BIOES", ["O", "B-X", "I-X", "E-X", "S-X"], ["X"]),
        (["o", "b-per", "i-per"], "IOB2", ["O", "B-per", "I-per"], ["per"]),
        (["O", "B_PER", "I_PER"], "IOB2", ["O", "B-PER", "I-PER"], ["PER"]),
        (["O", "PER-B", "PER-I"], "IOB2", ["O", "B-PER", "I-PER"], ["PER"]),
        (["O", "B-WORK-OF-ART"], "IOB2", ["O", "B-WORK-OF-ART"], ["WORK-OF-ART"]),
    ],
)
def test_any_spelling_is_read(names: list[str], scheme: str, tags: list[str], labels: list[str]) -> None:
    found = read_columns(names)
    assert (found.scheme, list(found.tags), list(found.labels)) == (scheme, tags, labels)
    assert found.numbers == tuple(range(len(names)))


def test_columns_that_are_no_tags_are_left_out() -> None:
    found = read_columns(["[PAD]", "O", "B-PER", "I-PER", "X", "[CLS]", "[SEP]"])
    assert found.numbers == (1, 2, 3)
    assert found.tags == ("O", "B-PER", "I-PER")


def test_that_iob2_is_assumed_is_said() -> None:
    assert "assumed" in read_columns(IOB2).reason
    found = read_columns(IOB2, "IOB1")
    assert (found.scheme, found.reason) == ("IOB1", "as was asked for")


def test_a_label_that_cannot_be_spelled_is_named() -> None:
    found = read_columns(["O", "B-PER", "E-PER", "S-PER", "B-LOC"])
    assert "LOC" in found.reason
    assert "PER" not in found.reason


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["LABEL_0", "LABEL_1"], "LABEL_0, LABEL_1.*id2label"),
        (["negative", "positive"], "negative, positive; .*one of them O"),
        (["O"], "the tags are O"),
        (["O", "B-PER", "B_PER"], "distinct"),
        (["O", "B-PER", "I-PER", "LOC"], "B-PER, I-PER have a prefix, LOC none"),
        (["O", "I-PER", "E-PER"], "no entity can be spelled"),
    ],
)
def test_what_is_no_tag_set_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_columns(names)


@pytest.mark.parametrize("scheme", ["IO", "BIOES"])
def test_a_scheme_that_the_tags_contradict_is_refused(scheme: str) -> None:
    with pytest.raises(ValueError, match=scheme):
        read_columns(IOB2, scheme)  # type: ignore[arg-type]
