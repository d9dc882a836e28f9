import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.runtimes.cost import Cost


@given(st.integers(1, 32), st.integers(1, 128))
def test_padding_that_takes_as_long_as_a_sub_token_counts_as_one(rows: int, longest: int) -> None:
    assert Cost(padding=1.0).size(rows, longest, 1) == rows * longest
    assert Cost(padding=0.0).size(rows, longest, 1) == 1


def test_a_long_row_costs_more_than_short_ones_where_pairs_do() -> None:
    cost = Cost(fixed=1e-3, per_token=1e-4, pair=0.01)
    assert cost.of(1, 64, 64) == pytest.approx(1e-3 + 1e-4 * (64 + 0.01 * 64 * 64))
    assert cost.of(4, 16, 64) < cost.of(1, 64, 64)
