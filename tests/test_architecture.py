"""Who may know whom: imports go down the floors of each package, and nobody is known by whom it knows.

Every import counts, also one inside a function or under `TYPE_CHECKING`.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    # Highest first. A module may import from its own room and from the floors below. Of two rooms on one
    # floor, with a comma between them one may know the other, and with a bar neither does, nor what else
    # belongs to the other: `rendering | versions.rollout` keeps rendering and all of versions apart.
    "app": """
        cli, server                              what people start: commands and processes
        main                                     the application is wired
        api | bulk                               HTTP; corpora
        annotate                                 the use case below every protocol
        rendering | versions.rollout             offsets in the caller's unit; which version serves
        versions.loading                         a folder becomes a model that runs
        versions.storage                         folders of versions, signatures
        metrics
        metric_kinds
        engine.ensemble                          several models as one
        engine.model                             wires the four rooms below
        engine.batching, engine.text, engine.runtimes, engine.decoding
        engine.memory, engine.priority           what the system is asked for
        manifest                                 the contract of a version
        settings | files | machine | processes
        errors | labels
    """,
    "training": """
        cli                                      nerve-train
        search | curve | soup                    many runs of the stages, and what is made of them
        stages                                   fine-tune, distil, publish: each once for its inputs
        teacher, loop, losses, inference         one run
        export                                   a network becomes a version
        evaluation                               what it is worth
        models                                   the networks
        data                                     documents and what is made of them
        recipe                                   what a run is asked to do
        changes | folders | progress | trials    files, and what is said on the way
    """,
}

FOR_TRAINING = ("engine", "versions", "manifest", "files", "machine", "errors", "labels")
"""The rooms of `app` that `training` may know: what is evaluated is what is served."""


# imports


class Arrow(NamedTuple):
    """One module imports another, there."""

    source: str
    target: str
    line: int

    @property
    def where(self) -> str:
        return f"{path_of(self.source)}:{self.line}"


def path_of(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return str(path.relative_to(ROOT))


@cache
def modules(package: str) -> tuple[str, ...]:
    """The full names of a package's modules."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return tuple(name.removesuffix(".__init__") for name in names)


@cache
def arrows(package: str) -> tuple[Arrow, ...]:
    """Every import of a module of ours by a module of a package."""
    ours = {*modules("app"), *modules("training")}
    found = []
    for module in modules(package):
        tree = ast.parse((ROOT / path_of(module)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            found += [Arrow(module, target, line) for target, line in targets(node, module, ours)]
    return tuple(found)


def targets(node: ast.AST, module: str, ours: Collection[str]) -> Iterator[tuple[str, int]]:
    """The modules of ours that a statement imports. `from a import b` means `a.b` if that is a module."""
    if isinstance(node, ast.Import):
        names = [(alias.name, "") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"{path_of(module)}:{node.lineno}: a relative import; write the whole name"
        names = [(node.module or "", alias.name) for alias in node.names]
    else:
        return
    for parent, name in names:
        for target in (f"{parent}.{name}", parent):
            if target in ours:
                yield target, node.lineno
                break


# floors


@cache
def rooms(package: str) -> Mapping[str, int]:
    """The rooms of a package by their full names, each with its floor, counted from the top."""
    return {
        f"{package}.{name.strip()}": floor
        for floor, names in enumerate(floors(package))
        for name in names.replace("|", ",").split(",")
    }


@cache
def floors(package: str) -> tuple[str, ...]:
    """The rooms of each floor, as the table has them."""
    lines = FLOORS[package].strip().splitlines()
    return tuple(line.strip().partition("  ")[0] for line in lines)


@cache
def strangers(package: str) -> Collection[frozenset[str]]:
    """Pairs of rooms of which neither may know the other."""
    apart = [[name.strip().split(".")[0] for name in names.split("|")] for names in floors(package)]
    return {frozenset(pair) for names in apart for pair in combinations(names, 2)}


@cache
def room_of(module: str) -> str | None:
    """The room that a module is in; None for a package's own, which is below all floors."""
    inside = [room for room in rooms(module.partition(".")[0]) if f"{module}.".startswith(f"{room}.")]
    return max(inside, key=len, default=None)


# what is wrong


def homeless(package: str) -> Iterator[tuple[str, str]]:
    """Modules that are on no floor, and are no package that rooms are in."""
    for module in modules(package):
        if room_of(module) is None and not any(room.startswith(f"{module}.") for room in rooms(package)):
            yield path_of(module), "is on no floor"


def deserted(package: str) -> Iterator[tuple[str, str]]:
    """Rooms that no module is in: the table would tell what is not so."""
    for room in sorted({*rooms(package)} - {room_of(module) for module in modules(package)}):
        yield room, "has no module"


def upward(package: str) -> Iterator[tuple[str, str]]:
    """Imports from a higher floor."""
    floor = rooms(package)
    for arrow in arrows(package):
        source, target = room_of(arrow.source), room_of(arrow.target)
        if source in floor and target in floor and floor[target] < floor[source]:
            yield arrow.where, f"imports {arrow.target} from a floor above"


def sideward(package: str) -> Iterator[tuple[str, str]]:
    """Imports between rooms that do not know each other."""
    for arrow in arrows(package):
        ends = [module.split(".")[1:2] for module in arrow[:2]]
        if frozenset(name for end in ends for name in end) in strangers(package):
            yield arrow.where, f"imports {arrow.target}, a stranger"


def foreign(package: str) -> Iterator[tuple[str, str]]:
    """Imports of what is none of the package's business."""
    for arrow in arrows(package):
        other, _, rest = arrow.target.partition(".")
        allowed = ("", *FOR_TRAINING) if package == "training" else ()
        if other != package and rest.partition(".")[0] not in allowed:
            yield arrow.where, f"imports {arrow.target}, none of its business"


def circles(edges: Mapping[str, Collection[str]]) -> list[list[str]]:
    """The sets of nodes that all reach one another, of two nodes at least (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            circle = sorted(stack[at:])
            del stack[at:]
            if len(circle) > 1:
                found.append(circle)

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def circular(package: str, of_rooms: bool) -> Iterator[tuple[str, str]]:
    """Imports that are part of a circle, of rooms or of modules."""
    edges: dict[str, set[str]] = defaultdict(set)
    made_by: dict[tuple[str, str], Arrow] = {}
    for arrow in arrows(package):
        source, target = (room_of(arrow.source), room_of(arrow.target)) if of_rooms else arrow[:2]
        if source and target and source != target:
            edges[source].add(target)
            made_by.setdefault((source, target), arrow)
    for circle in circles(edges):
        for (source, target), arrow in sorted(made_by.items()):
            if {source, target} <= {*circle}:
                yield arrow.where, f"makes a circle with {target}"


CHECKS: Mapping[str, Callable[[str], Iterator[tuple[str, str]]]] = {
    "homeless": homeless,
    "deserted": deserted,
    "upward": upward,
    "sideward": sideward,
    "foreign": foreign,
    "circular rooms": lambda package: circular(package, of_rooms=True),
    "circular modules": lambda package: circular(package, of_rooms=False),
}


@pytest.mark.parametrize("package", FLOORS)
@pytest.mark.parametrize("check", CHECKS)
def test_imports_go_down(package: str, check: str) -> None:
    wrong = [f"{where} {what}" for where, what in CHECKS[check](package)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_a_circle_is_found_however_long() -> None:
    edges = {"a": ["b", "d"], "b": ["c"], "c": ["a", "e"], "d": ["e"], "e": [], "f": ["a"]}
    assert circles(edges) == [["a", "b", "c"]]


def test_an_import_within_a_function_or_for_types_only_counts() -> None:
    code = (
        "if TYPE_CHECKING:\n    import app.api.health\ndef f():\n    from app.api import stream, Nothing\n"
    )
    found = {
        found for node in ast.walk(ast.parse(code)) for found in targets(node, "app.x", modules("app"))
    }
    assert found == {("app.api.health", 2), ("app.api.stream", 4), ("app.api", 4)}


# what importing brings in


def loaded_by(names: Sequence[str]) -> set[str]:
    """Top-level and full names of all modules that importing these brings in."""
    program = f"import sys\nfor name in {[*names]!r}: __import__(name)\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = run.stdout.split()
    return {*found, *(name.partition(".")[0] for name in found)}


def inside(room: str) -> list[str]:
    return [module for module in modules("app") if f"{module}.".startswith(f"app.{room}.")]


def test_the_server_imports_nothing_of_training() -> None:
    training = {"torch", "transformers", "optimum", "training", "onnx", "accelerate"}
    assert not loaded_by([module for module in modules("app") if module != "app.cli.__main__"]) & training


WEB = {"fastapi", "starlette", "uvicorn"}


@pytest.mark.parametrize("room", ["engine", "versions", "rendering", "annotate", "bulk", "server.memory"])
def test_what_is_below_http_loads_none_of_it(room: str) -> None:
    assert not loaded_by(inside(room)) & WEB


def test_a_dialect_knows_only_entities() -> None:
    dialects = [arrow for arrow in arrows("app") if arrow.source.startswith("app.api.dialects.")]
    behind = ("app.versions", "app.metrics", "app.engine")
    known = {arrow.target for arrow in dialects if arrow.target.startswith(behind)}
    assert known <= {"app.engine.decoding.entities"}


def test_the_application_loads_no_server() -> None:
    loaded = loaded_by(["app.main"])
    assert "uvicorn" not in loaded
    assert "app.server" not in loaded


def test_corpora_need_no_parquet() -> None:
    assert "pyarrow" not in loaded_by(inside("bulk"))


@pytest.mark.parametrize("module", inside("api"))
def test_http_speaks_of_no_network(module: str) -> None:
    text = (ROOT / path_of(module)).read_text()
    assert "onnxruntime" not in text
    assert "tokenizers" not in text
