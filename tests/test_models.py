"""The committed versions: each loads as the server loads it, and answers each text alone."""

from pathlib import Path

import pytest

from app.versions.loading.loader import load_version
from tests.bench.texts import news

MODELS = Path(__file__).parent.parent / "models"
VERSIONS = sorted(path.parent for path in MODELS.glob("*/*/manifest.json"))


def test_the_family_is_there() -> None:
    assert {MODELS / name for name in ("ner-en/4", "ner-en-small/4", "ner-en-fast/2")} <= set(VERSIONS)


def test_the_fast_one_is_under_eight_megabytes() -> None:
    assert sum(path.stat().st_size for path in (MODELS / "ner-en-fast/2").iterdir()) < 8e6


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
class TestVersion:
    def test_it_is_small_and_passes_its_checks(self, folder: Path) -> None:
        assert sum(path.stat().st_size for path in folder.iterdir()) < 30e6
        loaded = load_version(folder)
        loaded.model.close()
        assert len(loaded.manifest.golden) >= 5

    def test_an_answer_does_not_depend_on_batch_mates(self, folder: Path) -> None:
        loaded = load_version(folder)
        texts = news(48)
        alone = [loaded.model.logits([text])[0] for text in texts]
        together = loaded.model.logits(texts)
        answers = loaded.model.predict(texts)
        singly = [loaded.model.predict([text])[0] for text in texts]
        loaded.model.close()
        assert all((a == b).all() for a, b in zip(alone, together, strict=True))
        assert answers == singly
        assert sum(len(answer.entities) for answer in answers) > 20
