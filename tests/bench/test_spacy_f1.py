import pytest

from tests.bench.spacy_f1 import Answered, as_ours
from training.data.documents import Span


@pytest.mark.parametrize(
    ("text", "label", "surface"),
    [
        ("Ada Lund", "PERSON", "Ada Lund"),
        ("the World Bank", "ORG", "World Bank"),
        ("The Hague's", "GPE", "Hague"),
        ("Ada Lund\u2019s", "PERSON", "Ada Lund"),
        ("Theodore", "PERSON", "Theodore"),
    ],
)
def test_entities_follow_our_corpora(text: str, label: str, surface: str) -> None:
    (span,) = as_ours(text, [(0, len(text), label)])
    assert text[span.start : span.end] == surface


def test_labels_that_are_not_ours_are_left_out() -> None:
    assert not list(as_ours("German, the", [(0, 6, "NORP"), (8, 11, "DATE")]))


def test_answers_are_found_again_by_their_text() -> None:
    answered = Answered("", {"Ada": (Span(0, 3, "PER"),), "no": ()}, 1.0)
    assert answered.of(["no", "Ada", "no"]) == [(), (Span(0, 3, "PER"),), ()]
