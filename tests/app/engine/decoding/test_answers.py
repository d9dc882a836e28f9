from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from app.engine.decoding.answers import Answers, kept_entities
from app.engine.decoding.entities import Entity, Prediction
from app.engine.decoding.spans import Decoder, ScoredSpan
from app.engine.text.alignment import EncodedText
from app.labels import tags_of

TAGS = tags_of(["PER", "LOC"], "IOB2")


@dataclass
class RunText:
    encoded: EncodedText
    windows: int
    logits: npt.NDArray[np.float32] | None


def run_text(*tags: str, windows: int = 1) -> RunText:
    """Words of two characters with a blank between, whose tags are sure."""
    places = np.arange(len(tags))
    logits = np.zeros((len(tags), len(TAGS)), np.float32)
    for place, tag in enumerate(tags):
        logits[place, TAGS.index(tag)] = 9
    encoded = EncodedText(places, places, places, 3 * places, 3 * places + 2)
    return RunText(encoded, windows, logits if tags else None)


def test_entities_stand_where_their_words_do() -> None:
    answers = Answers(Decoder(TAGS, "IOB2"), {})
    one, none, blank = answers.predictions(
        [run_text("O", "B-PER", "I-PER", windows=2), run_text("O"), run_text(windows=0)]
    )
    assert [(e.start, e.end, e.label) for e in one.entities] == [(3, 8, "PER")]
    assert (one.windows, none, blank) == (2, Prediction((), 1), Prediction((), 0))


def test_evidence_is_the_answer_with_its_posteriors() -> None:
    answers = Answers(Decoder(TAGS, "IOB2", 2.0), {})
    texts = [run_text("B-LOC", "O"), run_text(windows=0)]
    evidence, nothing = answers.evidence(texts)
    assert [evidence.prediction, nothing.prediction] == answers.predictions(texts)
    assert evidence.posteriors.sum(1) == pytest.approx([1, 1])
    assert evidence.posteriors.argmax(1).tolist() == [TAGS.index("B-LOC"), 0]
    assert nothing.posteriors.shape == (0, len(TAGS))
    assert [one.shape for one in answers.logits(texts)] == [(2, len(TAGS)), (0, len(TAGS))]


def test_an_entity_is_kept_from_its_labels_threshold_on() -> None:
    starts, ends = np.array([0, 3]), np.array([2, 5])
    spans = [ScoredSpan(0, 0, "PER", 0.5), ScoredSpan(1, 1, "LOC", 0.5)]
    kept = kept_entities(spans, {"PER": 0.5, "LOC": 0.6}, starts, ends)
    assert kept == (Entity(0, 2, "PER", 0.5),)
