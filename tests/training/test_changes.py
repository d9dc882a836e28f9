from typing import Any

import pytest

from training.changes import apply_change


def tables() -> dict[str, Any]:
    return {"name": "own", "finetune": {"lr": 1}, "students": [{"name": "a.b"}, {"name": "c"}]}


@pytest.mark.parametrize(
    ("change", "where", "value"),
    [
        ("finetune.lr=2", ("finetune", "lr"), 2),
        ("finetune.seeds = [1, 2]", ("finetune", "seeds"), [1, 2]),
        ("name=other words", ("name",), "other words"),
        ('name="2"', ("name",), "2"),
        ("export.gate=0.5", ("export", "gate"), 0.5),
        ("students.a.b.size.layers=3", ("students", 0, "size", "layers"), 3),
        ("students.c.seed=7", ("students", 1, "seed"), 7),
        ("students=[]", ("students",), []),
    ],
)
def test_one_value_is_changed_wherever_it_stands(
    change: str, where: tuple[Any, ...], value: object
) -> None:
    found: Any = tables()
    apply_change(found, change)
    for key in where:
        found = found[key]
    assert found == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetune.lr", "--set finetune.lr: must be table.key=value"),
        ("name.first=a", "--set name.first=a: name is no table of the recipe"),
        ("students.d.seed=1", "say students.NAME.key, NAME being a.b or c"),
    ],
)
def test_a_change_that_names_no_table_is_refused(change: str, message: str) -> None:
    found = tables()
    with pytest.raises(ValueError, match=r"^--set ") as caught:
        apply_change(found, change)
    assert message in str(caught.value)
    assert found == tables()
