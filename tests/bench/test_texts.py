from statistics import mean

import pytest

from tests.bench.texts import SETS


@pytest.mark.parametrize("words", SETS)
def test_a_set_has_the_words_it_is_called_by(words: int) -> None:
    texts = SETS[words]()
    assert len(texts) == 500
    assert mean(len(text.split()) for text in texts) == pytest.approx(words, abs=0.5)


@pytest.mark.parametrize("words", SETS)
def test_a_set_is_the_same_every_time(words: int) -> None:
    assert SETS[words](50) == SETS[words](50)
