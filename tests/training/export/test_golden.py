from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.model import Network
from app.versions.loading.loader import load_version
from app.versions.loading.self_test import check_golden
from tests.tiny import SCORES, SPANS, TEXT, write_tiny_version
from training.export.golden import CANDIDATES, LEAST_SCORE, MOST_TEXTS, choose_golden

UNSURE = "Perhaps"  # a PER, with a probability of 0.7
NOTHING = "nobody"
SURE = SCORES | {"merkel": {"I-PER": 8.0}, "new": {"B-LOC": 8.0}, "york": {"I-LOC": 8.0}}


@pytest.fixture
def predictor(tmp_path: Path) -> Iterator[Network]:
    loaded = load_version(write_tiny_version(tmp_path / "models", scores=SURE))
    yield loaded.model
    loaded.model.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Network]:
    """A model that labels IBM as a person and Apple as a firm."""
    scores = SURE | {"apple": {"B-ORG": 8.0}}
    folder = write_tiny_version(tmp_path / "other", ibm="PER", scores=scores)
    loaded = load_version(folder)
    yield loaded.model
    loaded.model.close()


def test_texts_with_sure_entities_are_chosen(predictor: Network) -> None:
    (prediction,) = predictor.predict([UNSURE])
    assert 0 < prediction.entities[0].score < LEAST_SCORE
    (golden,) = choose_golden([predictor], [UNSURE, TEXT, NOTHING])
    assert golden.text == TEXT
    assert [(e.start, e.end, e.label) for e in golden.entities] == SPANS


def test_every_variant_must_agree(predictor: Network, other: Network) -> None:
    texts = ["Angela Merkel", "IBM", "Apple"]
    assert [g.text for g in choose_golden([predictor, other], texts)] == ["Angela Merkel"]
    assert [g.text for g in choose_golden([other, predictor], texts)] == ["Angela Merkel"]


def test_what_is_chosen_passes_the_check_at_load(predictor: Network, tmp_path: Path) -> None:
    golden = choose_golden([predictor], [TEXT, "New York", "IBM in 北京"])
    assert len(golden) == 3
    loaded = load_version(write_tiny_version(tmp_path / "again", scores=SURE, golden=golden))
    check_golden("ner-en/1", loaded.model)
    loaded.model.close()


def test_at_most_ten_are_kept(predictor: Network) -> None:
    assert len(choose_golden([predictor], [f"IBM {number}" for number in range(20)])) == MOST_TEXTS


def test_own_sentences_stand_in_for_candidates(predictor: Network) -> None:
    assert len(set(CANDIDATES)) == len(CANDIDATES) >= MOST_TEXTS
    assert choose_golden([predictor], []) == ()  # the tiny model knows none of their names
