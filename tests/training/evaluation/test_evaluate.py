from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.versions.loading.loader import load_version
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.evaluation.evaluate import as_text, evaluate, evaluate_system

LABELS = ("PER", "ORG", "LOC")
NEWS = LoadedCorpus(
    "news",
    (
        Document("a", "Angela Merkel visited IBM.", (Span(0, 13, "PER"), Span(22, 25, "ORG"))),
        Document("b", "Nobody left New York.", (Span(12, 20, "LOC"),)),
    ),
)
WEB = LoadedCorpus("web", (Document("c", "ibm", (Span(0, 3, "ORG"),)),))


def finds_firms(texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Finds one firm, in upper and lower case."""
    places = [(text.lower().find("ibm"), text) for text in texts]
    return [[(at, at + 3, "ORG")] if at >= 0 else [] for at, _ in places]


def test_another_system_has_the_table_of_a_version() -> None:
    found = evaluate_system(finds_firms, [NEWS, WEB], LABELS)
    assert found["average_f1"] == 75.0
    assert found["corpora"]["news"] == {
        "precision": 100.0,
        "recall": 33.33,
        "f1": 50.0,
        "support": 3,
        "labels": {
            "PER": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
            "ORG": {"precision": 100.0, "recall": 100.0, "f1": 100.0, "support": 1},
            "LOC": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
        },
    }
    assert "| web | ORG | 100.00 | 100.00 | 100.00 | 1 |" in as_text(found)


def test_an_entity_of_a_foreign_label_counts_as_found() -> None:
    def finds(texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        return [[*found, (0, 1, "DATE")] for found in finds_firms(texts)]

    assert evaluate_system(finds, [WEB], LABELS)["corpora"]["web"]["precision"] == 50.0


@pytest.mark.parametrize("tokens", [False, True])
def test_a_version_scores_as_the_spans_it_gives(models_dir: Path, tokens: bool) -> None:
    folder = models_dir / "ner-en/1"
    loaded = load_version(folder)

    def finds(texts: Sequence[str]) -> list[Iterable[tuple[int, int, str]]]:
        return [[(e.start, e.end, e.label) for e in one.entities] for one in loaded.model.predict(texts)]

    try:
        meant: dict[str, Any] = evaluate_system(finds, [NEWS, WEB], LABELS, tokens)
    finally:
        loaded.model.close()
    assert evaluate(folder, [NEWS, WEB], tokens=tokens) == meant
    assert ("tokens" in meant["corpora"]["news"]) == tokens


def test_without_corpora_the_average_is_zero(models_dir: Path) -> None:
    assert evaluate(models_dir / "ner-en/1", []) == {"average_f1": 0.0, "corpora": {}}
