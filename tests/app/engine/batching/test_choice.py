from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.choice import choose_batch, look_ahead, overtaking
from app.engine.runtimes.cost import Cost
from tests.app.engine.batching.costs import costs

lengths_of_rows = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def price(rows: Sequence[int], lengths: Sequence[int], cost: Cost) -> float:
    """Seconds a sub-token of a batch of these rows."""
    chosen = [lengths[row] for row in rows]
    return cost.of(len(chosen), max(chosen), sum(chosen)) / sum(chosen)


@given(lengths=lengths_of_rows, cost=costs, max_tokens=st.integers(1, 200))
def test_a_batch_is_the_cheapest_of_its_neighbours_by_length(
    lengths: list[int], cost: Cost, max_tokens: int
) -> None:
    chosen = choose_batch(lengths, cost, max_tokens)
    assert 0 in chosen
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    runs = [order[a:b] for a in range(len(order)) for b in range(a + 1, len(order) + 1)]
    fitting = [
        run
        for run in runs
        if 0 in run and (run == [0] or len(run) * max(lengths[row] for row in run) <= max_tokens)
    ]
    assert price(chosen, lengths, cost) == pytest.approx(min(price(run, lengths, cost) for run in fitting))


def test_a_cheap_start_makes_small_batches_and_a_dear_one_large() -> None:
    lengths = [4, 5, 30, 31]
    assert choose_batch(lengths, Cost(fixed=1e-6, per_token=1e-3), 1000) == [0]
    assert sorted(choose_batch(lengths, Cost(fixed=1.0, per_token=1e-6), 1000)) == [0, 1, 2, 3]


@given(cost=costs, max_tokens=st.integers(1, 100_000))
def test_short_requests_are_overtaken_by_no_more_than_others(cost: Cost, max_tokens: int) -> None:
    ahead = look_ahead(cost, max_tokens)
    assert max_tokens < ahead <= overtaking(cost, max_tokens, 0) <= overtaking(cost, max_tokens, 1)
