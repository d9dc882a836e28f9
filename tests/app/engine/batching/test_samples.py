import numpy as np
import pytest

from app.engine.batching.samples import sample_batches
from app.engine.text.tokenizer import Specials
from app.manifest import Feature

INPUTS: dict[str, Feature] = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "word_shape"}
FRAME = Specials((1,), (2,), 9)


@pytest.mark.parametrize(("real", "attended"), [(None, 8), (8, 8), (5, 5), (2, 2), (20, 8)])
def test_a_row_has_so_many_real_sub_tokens(real: int | None, attended: int) -> None:
    batch = sample_batches(INPUTS, FRAME, max_length=64)(3, 8, real)
    assert set(batch) == set(INPUTS)
    assert {array.shape for array in batch.values()} == {(3, 8)}
    assert batch["attention_mask"].sum(axis=1).tolist() == [attended] * 3
    assert batch["input_ids"][0, 0] == 1
    assert batch["input_ids"][0, attended - 1] == 2


def test_no_row_is_longer_than_the_network_takes() -> None:
    batch = sample_batches(INPUTS, FRAME, max_length=16)(2, 128)
    assert batch["input_ids"].shape == (2, 16)
    assert np.all(batch["attention_mask"] == 1)


def test_no_row_has_fewer_sub_tokens_than_its_special_tokens() -> None:
    batch = sample_batches(INPUTS, FRAME, max_length=64)(2, 4, real=1)
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0]] * 2
