import pytest

from app.labels import PREFIXES, Scheme, joins, legal, tags_of


def test_tags_of_a_scheme() -> None:
    assert tags_of(["PER"], "IO") == ("O", "I-PER")
    assert tags_of(["PER"], "IOB1") == ("O", "B-PER", "I-PER")
    assert tags_of(["PER"], "BIOES") == ("O", "B-PER", "I-PER", "E-PER", "S-PER")


@pytest.mark.parametrize("scheme", PREFIXES)
def test_what_continues_an_entity_is_legal_and_has_its_label(scheme: Scheme) -> None:
    tags = tags_of(["PER", "LOC"], scheme)
    for before in tags:
        for after in tags:
            if joins(before, after, scheme):
                assert legal(before, after, scheme)
                assert before[2:] == after[2:] != ""


@pytest.mark.parametrize("scheme", PREFIXES)
def test_a_text_may_be_without_entities(scheme: Scheme) -> None:
    assert legal("O", "O", scheme)
    assert not joins("O", "O", scheme)
