import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.runtimes.batch_shapes import (
    GRAPH_TOKENS,
    MULTIPLE,
    find_token_budget,
    gpu_shape,
    graph_shape,
    padded_length,
)
from app.errors import InferenceFailed

LONGEST = 512


@pytest.mark.parametrize(("longest", "length"), [(1, 8), (8, 8), (9, 16), (250, 256), (256, 256)])
def test_lengths_are_multiples_of_eight(longest: int, length: int) -> None:
    assert padded_length(longest) == length
    assert gpu_shape(3, longest) == (3, length)


@pytest.mark.parametrize(("longest", "length"), [(97, 100), (100, 100), (96, 96), (101, 101)])
def test_rounding_does_not_exceed_what_the_network_takes(longest: int, length: int) -> None:
    assert padded_length(longest, max_length=100) == length


@given(st.integers(1, 300), st.integers(1, LONGEST), st.booleans())
def test_a_shape_holds_its_rows_and_wastes_little(rows: int, longest: int, graphs: bool) -> None:
    padded_rows, length = gpu_shape(rows, longest, LONGEST, graphs)
    assert longest <= length < longest + MULTIPLE
    assert rows <= padded_rows < 2 * rows
    assert padded_rows == rows or padded_rows * length <= GRAPH_TOKENS


@given(st.integers(1, 300), st.integers(1, LONGEST))
def test_a_shape_stays_as_it_is_when_it_is_asked_for_again(rows: int, longest: int) -> None:
    shape = gpu_shape(rows, longest, LONGEST, graphs=True)
    assert gpu_shape(*shape, LONGEST, graphs=True) == shape


def test_small_batches_share_few_graphs() -> None:
    assert graph_shape(5, 32) == graph_shape(8, 32) == (8, 32)
    assert graph_shape(1, 32) == (1, 32)
    assert graph_shape(65, 32) is None  # 128 rows of 32 are too many
    assert gpu_shape(65, 30, graphs=True) == (65, 32)
    shapes = {graph_shape(rows, length) for rows in range(1, 300) for length in range(8, 65, 8)}
    assert len(shapes - {None}) <= 64


class Gpu:
    """A simulated one: launches take their time, then it is as fast as its units, until memory ends."""

    def __init__(self, launch: float, per_token: float, memory: int = 1 << 40):
        self.launch, self.per_token, self.memory = launch, per_token, memory
        self.asked: list[tuple[int, int]] = []

    def __call__(self, rows: int, length: int) -> float:
        self.asked.append((rows, length))
        if rows * length > self.memory:
            raise InferenceFailed("out of memory")
        return self.launch + self.per_token * rows * length


def test_a_batch_grows_while_that_pays() -> None:
    gpu = Gpu(launch=2e-3, per_token=1e-6)
    budget = find_token_budget(gpu, LONGEST, 1 << 20)
    now, twice = (budget * rows / gpu(rows, budget) for rows in (1, 2))
    half = budget / 2 / gpu(1, budget // 2)
    assert now >= 1.05 * half
    assert twice < 1.05 * now


def test_where_nothing_is_gained_a_row_is_enough() -> None:
    assert find_token_budget(Gpu(launch=0.0, per_token=1e-6), LONGEST, 1 << 20) == LONGEST


def test_the_end_of_memory_is_survived() -> None:
    gpu = Gpu(launch=1.0, per_token=1e-6, memory=10_000)
    assert find_token_budget(gpu, LONGEST, 1 << 20) == 8_192
    assert gpu.asked[-1] == (32, LONGEST)  # 16,384 sub-tokens failed, and nothing larger was tried


def test_the_limit_is_kept() -> None:
    gpu = Gpu(launch=1.0, per_token=1e-9)
    assert find_token_budget(gpu, LONGEST, 5_000) == 4_096
    assert max(rows * length for rows, length in gpu.asked) == 4_096


def test_one_uneven_time_does_not_end_the_search() -> None:
    gpu = Gpu(launch=1.0, per_token=1e-6)

    def uneven(rows: int, length: int) -> float:
        return gpu(rows, length) * (2.5 if rows == 4 else 1.0)

    assert find_token_budget(uneven, LONGEST, 16_384) == 16_384


def test_a_network_that_fails_on_one_row_is_told() -> None:
    with pytest.raises(InferenceFailed, match="out of memory"):
        find_token_budget(Gpu(launch=1.0, per_token=1e-6, memory=100), LONGEST, 1 << 20)
