import pytest

from app.engine.batching.size_classes import size_class_of


@pytest.mark.parametrize(
    ("tokens", "number"),
    [(0, 0), (1, 0), (256, 0), (257, 1), (4_096, 1), (4_097, 2), (65_536, 2), (65_537, 3), (10**7, 3)],
)
def test_each_size_class_has_requests_of_up_to_sixteen_times_as_many_sub_tokens(
    tokens: int, number: int
) -> None:
    assert size_class_of(tokens) == number
