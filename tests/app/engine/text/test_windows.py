from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.engine.text.windows import Window, cut_windows, stitch

lengths = st.integers(0, 400)
sizes = st.integers(1, 60)
strides = st.integers(0, 59)


@given(length=lengths, size=sizes, stride=strides)
def test_the_kept_parts_partition_the_text(length: int, size: int, stride: int) -> None:
    assume(stride < size)
    kept = [at for w in cut_windows(length, size, stride) for at in range(w.keep_from, w.keep_to)]
    assert kept == list(range(length))


@given(length=lengths, size=sizes, stride=strides)
def test_windows_lie_in_the_text_and_hold_what_they_keep(length: int, size: int, stride: int) -> None:
    assume(stride < size)
    for window in cut_windows(length, size, stride):
        assert 0 <= window.start <= window.keep_from < window.keep_to <= window.end <= length
        assert window.end - window.start == min(size, length)


@given(length=lengths, size=sizes, stride=strides)
def test_neighbours_overlap_by_the_stride_at_least(length: int, size: int, stride: int) -> None:
    assume(stride < size)
    windows = cut_windows(length, size, stride)
    for left, right in pairwise(windows):
        assert left.end - right.start >= stride
        assert right.start > left.start


@given(length=lengths, size=sizes, stride=strides)
def test_each_sub_token_is_kept_where_it_stands_most_central(length: int, size: int, stride: int) -> None:
    assume(stride < size)
    windows = cut_windows(length, size, stride)

    def context(window: Window, at: int) -> int:
        return min(at - window.start, window.end - 1 - at)

    for own in windows:
        for at in range(own.keep_from, own.keep_to):
            best = max(context(w, at) for w in windows if w.start <= at < w.end)
            assert context(own, at) >= best - 1  # the two middles of an even overlap are equals


def test_a_short_text_is_one_window() -> None:
    assert cut_windows(5, 10, 3) == [Window(0, 5, 0, 5)]


def test_an_empty_text_has_no_window() -> None:
    assert cut_windows(0, 10, 3) == []


def test_a_stride_that_leaves_no_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="stride 10 must be below"):
        cut_windows(50, 10, 10)


@given(
    length=st.integers(1, 60),
    size=st.integers(2, 20),
    overlap=st.floats(0, 0.9),
    prefix=st.integers(0, 2),
    data=st.data(),
)
def test_stitched_windows_give_each_decision_the_logits_of_its_first_sub_token(
    length: int, size: int, overlap: float, prefix: int, data: st.DataObject
) -> None:
    """Each sub-token's logits are its own place in the text here, so that a wrong one shows."""
    firsts = np.array(sorted(data.draw(st.sets(st.integers(0, length - 1)))), np.int64)
    windows = cut_windows(length, size, int(overlap * size))
    text = None
    for window in data.draw(st.permutations(windows)):
        row = np.full((prefix + size + 3, 2), -1, np.float32)  # special tokens and padding included
        places = np.arange(window.start, window.end)
        row[prefix : prefix + len(places)] = np.stack([places, 2 * places], axis=1)
        text = stitch(text, window, firsts, row, prefix)
    assert text is not None
    assert text.dtype == np.float32
    assert text.tolist() == np.stack([firsts, 2 * firsts], axis=1).tolist()
