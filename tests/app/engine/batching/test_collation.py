from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.collation import collate
from app.engine.text.tokenizer import Specials
from app.engine.text.words import Ints
from app.manifest import Feature

INPUTS: dict[str, Feature] = {
    "input_ids": "ids",
    "attention_mask": "mask",
    "token_type_ids": "zeros",
    "word_shape": "word_shape",
}
FRAMES = [
    Specials((101,), (102,), 7),
    Specials((), (), 0),
    Specials((), (2, 3), 0),
    Specials((1, 2), (), 9),
]


@dataclass
class Row:
    ids: Ints
    shapes: Ints


def row(ids: Sequence[int]) -> Row:
    return Row(np.array(ids, np.int64), np.array([number % 6 for number in ids], np.int64))


@given(
    rows=st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=9), min_size=1, max_size=6),
    frame=st.sampled_from(FRAMES),
    added=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 5)),
)
def test_each_row_stands_between_its_specials_and_padding_behind(
    rows: list[list[int]], frame: Specials, added: tuple[int, int] | None
) -> None:
    longest = max(map(len, rows)) + frame.count
    shape = (len(rows) + added[0], longest + added[1]) if added else (len(rows), longest)
    arrays = collate([row(ids) for ids in rows], INPUTS, frame, shape if added else None)
    assert list(arrays) == list(INPUTS)
    assert all(array.shape == shape and array.dtype == np.int64 for array in arrays.values())
    assert not arrays["token_type_ids"].any()
    for number, ids in enumerate(rows):
        whole = [*frame.prefix, *ids, *frame.suffix]
        padding = shape[1] - len(whole)
        assert arrays["input_ids"][number].tolist() == whole + [frame.pad_id] * padding
        assert arrays["attention_mask"][number].tolist() == [1] * len(whole) + [0] * padding
        shapes = [0] * len(frame.prefix) + [number % 6 for number in ids] + [0] * len(frame.suffix)
        assert arrays["word_shape"][number].tolist() == shapes + [0] * padding
    for number in range(len(rows), shape[0]):  # attention to nothing is not a number
        assert arrays["attention_mask"][number].tolist() == [1] + [0] * (shape[1] - 1)
        assert set(arrays["input_ids"][number].tolist()) == {frame.pad_id}


def test_a_network_is_given_the_inputs_that_it_takes_and_no_others() -> None:
    inputs: dict[str, Feature] = {"tokens": "ids"}
    arrays = collate([row([5, 6])], inputs, FRAMES[0])
    assert {name: array.tolist() for name, array in arrays.items()} == {"tokens": [[101, 5, 6, 102]]}
