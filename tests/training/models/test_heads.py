import pytest

from training.models.heads import read_head

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
    head = read_head(names)
    assert (head.scheme, list(head.tags), list(head.labels)) == (scheme, tags, labels)
    assert head.columns == tuple(range(len(names)))


def test_columns_that_are_no_tags_are_left_out() -> None:
    head = read_head(["[PAD]", "O", "B-PER", "I-PER", "X", "[CLS]", "[SEP]"])
    assert head.columns == (1, 2, 3)
    assert head.tags == ("O", "B-PER", "I-PER")


def test_that_iob2_is_assumed_is_said() -> None:
    assert "assumed" in read_head(IOB2).reason
    head = read_head(IOB2, "IOB1")
    assert (head.scheme, head.reason) == ("IOB1", "as was asked for")


def test_a_label_that_cannot_be_spelled_is_named() -> None:
    head = read_head(["O", "B-PER", "E-PER", "S-PER", "B-LOC"])
    assert "LOC" in head.reason
    assert "PER" not in head.reason


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
        read_head(names)


@pytest.mark.parametrize("scheme", ["IO", "BIOES"])
def test_a_scheme_that_the_tags_contradict_is_refused(scheme: str) -> None:
    with pytest.raises(ValueError, match=scheme):
        read_head(IOB2, scheme)  # type: ignore[arg-type]
