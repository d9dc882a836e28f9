import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.texts import texts
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.evaluation.robustness import (
    ORIGINS,
    PERTURBATIONS,
    lower,
    names,
    no_punctuation,
    perturbed,
    typos,
    upper,
)

TEXT = "Ada Lund met O'Neil of Straße-Bau Inc. in the U.S., didn't she?"
MENTIONS = [("Ada Lund", "PER"), ("O'Neil", "PER"), ("Straße-Bau Inc.", "ORG"), ("U.S.", "LOC")]


def document(text: str = TEXT, mentions: list[tuple[str, str]] = MENTIONS) -> Document:
    spans = [Span(text.index(name), text.index(name) + len(name), label) for name, label in mentions]
    return Document("d", text, tuple(spans), "g")


def mentions(document: Document) -> list[str]:
    return [document.text[start:end] for start, end, _ in document.spans]


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Any text with any entities in it, but for blanks alone."""
    text = draw(texts)
    ends = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = [
        Span(start, end, draw(st.sampled_from(["PER", "LOC"])))
        for start, end in pairwise(ends)
        if text[start:end].strip() and draw(st.booleans())
    ]
    return Document("d", text, tuple(spans))


@pytest.mark.parametrize("name", PERTURBATIONS)
@given(document=documents(), seed=st.integers(0, 99))
def test_entities_stay_in_order_inside_the_text(name: str, document: Document, seed: int) -> None:
    result = PERTURBATIONS[name](document, random.Random(seed))
    ends = [place for start, end, _ in result.spans for place in (start, end)]
    assert [0, *ends, len(result.text)] == sorted([0, *ends, len(result.text)])
    assert all(mentions(result))
    assert result == PERTURBATIONS[name](document, random.Random(seed))
    if name != "no_punctuation":
        assert [span.label for span in result.spans] == [span.label for span in document.spans]


@given(documents())
def test_letters_change_their_case_in_entities_and_around(document: Document) -> None:
    rng = random.Random(0)
    assert mentions(lower(document, rng)) == [mention.lower() for mention in mentions(document)]
    assert mentions(upper(document, rng)) == [mention.upper() for mention in mentions(document)]
    assert lower(document, rng).text.lower() == document.text.lower().lower()
    assert upper(document, rng).text == document.text.upper()


def test_a_letter_may_become_two() -> None:
    result = upper(document(), random.Random(0))
    assert result.text == "ADA LUND MET O'NEIL OF STRASSE-BAU INC. IN THE U.S., DIDN'T SHE?"
    assert mentions(result) == ["ADA LUND", "O'NEIL", "STRASSE-BAU INC.", "U.S."]
    assert (result.id, result.group) == ("d", "g")


def test_marks_go_and_words_stay_apart() -> None:
    result = no_punctuation(document(), random.Random(0))
    assert " ".join(result.text.split()) == "Ada Lund met ONeil of Straße Bau Inc in the US didnt she"
    assert mentions(result) == ["Ada Lund", "ONeil", "Straße Bau Inc", "US"]


def test_marks_beside_an_entity_part_it_from_what_follows() -> None:
    result = no_punctuation(
        document("Lund's yard,Bay.", [("Lund", "PER"), ("Bay", "LOC")]), random.Random(0)
    )
    assert result.text == "Lund s yard Bay "


def test_an_entity_of_marks_alone_goes() -> None:
    result = no_punctuation(document("@ lund -Bay-", [("@", "PER"), ("-Bay-", "LOC")]), random.Random(0))
    assert mentions(result) == ["Bay"]


@given(documents(), st.integers(0, 99))
def test_no_mark_is_left(document: Document, seed: int) -> None:
    result = no_punctuation(document, random.Random(seed))
    assert not set(result.text) & set(".,;:!?'\"()[]-/#@$")
    again = no_punctuation(result, random.Random(seed))
    assert again == result


@given(documents(), st.integers(0, 99))
def test_no_typos_change_nothing(document: Document, seed: int) -> None:
    assert typos(document, random.Random(seed), rate=0.0) == document


def test_every_word_of_four_letters_may_get_a_typo() -> None:
    text = "plain words get typos but not the 12345 odd one"
    results = {typos(Document("d", text), random.Random(seed), rate=1.0).text for seed in range(50)}
    for result in results:
        assert result.split()[3:] != text.split()[3:]
        for before, after in zip(text.split(), result.split(), strict=True):
            assert after[0] == before[0]
            assert abs(len(after) - len(before)) <= 1
            assert after == before or (len(before) >= 4 and before.isalpha())
    lengths = {len(result.split()[0]) for result in results}
    assert lengths == {4, 5, 6}  # left out, swapped or replaced, doubled


def test_about_one_word_in_ten_gets_a_typo() -> None:
    words = ["singular"] * 2000
    result = typos(Document("d", " ".join(words)), random.Random(1)).text.split()
    assert 150 < sum(word != "singular" for word in result) < 250


def test_persons_get_names_of_other_origins() -> None:
    people = {(first, last) for some in ORIGINS.values() for first in some[0] for last in some[1]}
    drawn = set()
    for seed in range(200):
        result = names(document(), random.Random(seed))
        full, single, *others = mentions(result)
        assert tuple(full.split()) in people
        assert any(single in pair for pair in people)
        assert others == ["Straße-Bau Inc.", "U.S."]
        assert result.text == TEXT.replace("Ada Lund", full).replace("O'Neil", single)
        drawn |= {origin for origin, (first, _) in ORIGINS.items() if full.split()[0] in first}
    assert drawn == set(ORIGINS)


def test_a_name_that_comes_again_stays_itself() -> None:
    text = "Ada B. Lund and Grace Park ; later Lund , ADA and @ada"
    spans = [
        Span(text.index(x), text.index(x) + len(x), "PER") for x in ("Ada B. Lund", "Grace Park", "@ada")
    ]
    spans += [Span(text.rindex("Lund"), text.rindex("Lund") + 4, "PER"), Span(42, 45, "PER")]
    for seed in range(20):
        result = names(Document("d", text, tuple(sorted(spans))), random.Random(seed))
        full, other, last, first, handle = mentions(result)
        assert full.upper() == f"{first} {last}".upper()
        assert first.isupper()
        assert handle == "@ada"
        assert other != full


def test_names_keep_their_case() -> None:
    for person in ("ada lund", "ADA LUND"):
        (mention,) = mentions(names(document(f"so {person} said", [(person, "PER")]), random.Random(2)))
        assert mention != person
        assert mention.islower() == person.islower()
        assert mention.isupper() == person.isupper()


def test_each_origin_has_a_dozen_of_each() -> None:
    for first_names, surnames in ORIGINS.values():
        assert len(set(first_names)) >= 12
        assert len(set(surnames)) >= 12
        assert all(name[0].isupper() for name in first_names + surnames)


def test_a_corpus_is_perturbed_document_by_document() -> None:
    docs = tuple(Document(f"d:{n}", "Ada Lund came", (Span(0, 8, "P"),)) for n in range(30))
    corpus = LoadedCorpus("c", docs, repeat=2)
    result = perturbed(corpus, "names", person="P")
    assert (result.name, result.repeat) == ("c", 2)
    assert len({document.text for document in result.documents}) > 20
    assert perturbed(LoadedCorpus("c", docs[7:9]), "names", person="P").documents == result.documents[7:9]
    assert perturbed(corpus, "names", seed=1, person="P").documents != result.documents
    assert perturbed(corpus, "names").documents == docs  # PER is no label of it
    assert {document.text for document in perturbed(corpus, "upper").documents} == {"ADA LUND CAME"}


def test_an_unknown_perturbation_is_refused() -> None:
    with pytest.raises(ValueError, match="no perturbation 'rot13'; there are lower, upper, typos"):
        perturbed(LoadedCorpus("c", ()), "rot13")
