"""Imports in `training` only go down its floors."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "training"

FLOORS = (
    {"cli"},
    {"search", "trials", "curve"},
    {"stages"},
    {"loop", "soup"},
    {"teacher", "losses"},
    {"inference"},
    {"export"},
    {"evaluation"},
    {"models"},
    {"data"},
    {"recipe"},
    {"changes", "folders", "progress"},
)
"""Rooms, highest first. Those of one floor do not know each other, but for those in `BESIDE`."""

BESIDE = {("search", "trials")}


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in its text it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in MODULES and name != "training")


def room(module: str) -> str:
    return module.split(".")[1]


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "training"])
def test_a_module_imports_only_from_floors_below(module: str) -> None:
    for other in imported(MODULES[module]):
        below = floor(other) > floor(module)
        assert below or room(other) == room(module) or (room(module), room(other)) in BESIDE, other


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    while free := {name for name, others in graph.items() if not others & set(graph)}:
        graph = {name: others for name, others in graph.items() if name not in free}
    assert not graph, f"these import each other: {', '.join(sorted(graph))}"
