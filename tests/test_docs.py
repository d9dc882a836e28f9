"""Documentation says what the code does: links, settings, errors, commands, paths, examples."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

import app.cli.main
import training.cli
from app.manifest import read_manifest
from app.settings import Settings
from tests.markdown import ROOT, anchors, blocks, commands, links, read, rows
from tests.servers import Server, serving
from training.recipe import load_recipe

PAGES = ("README.md", "README.zh.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in links(read(page)):
        path, _, anchor = target.partition("#")
        goal = (ROOT / page).parent / path if path else ROOT / page
        assert goal.exists(), target
        if anchor:
            assert anchor in anchors(goal.read_text(encoding="utf-8")), target


def test_every_page_stands_in_the_list() -> None:
    listed = set(links(read("docs/README.md"))) - {"../README.md"}
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    for path in re.findall(r"`((?:app|training|tests|docs|deploy)/[\w./-]*)`", read(page)):
        assert (ROOT / path).exists(), path


def test_every_setting_stands_in_its_table_with_its_default() -> None:
    found = re.findall(r"^\| `NERVE_(\w+)` \| (.*?) \| (.*) \|$", read("docs/settings.md"), re.MULTILINE)
    expected = []
    for name, field in Settings.model_fields.items():
        default = field.default
        plain = str(default).lower() if isinstance(default, bool) else str(default)
        shown = "" if default in (None, ()) else plain
        expected.append((name.upper(), f"`{shown}`" if shown else "", field.description))
    assert found == expected


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_are_named_exist(page: str) -> None:
    known = {name.upper() for name in Settings.model_fields}
    assert set(re.findall(r"NERVE_(\w+)", read(page))) <= known


def test_the_scores_by_label_are_the_default_models() -> None:
    page = rows(read("docs/models.md"))
    metrics = read_manifest(ROOT / "models/ner-en/4").metrics["test"]
    for name, corpus in metrics["corpora"].items():
        labels = [f"{corpus['labels'][label]['f1']:.2f}" for label in ("PER", "ORG", "LOC")]
        assert [name, f"{corpus['f1']:.2f}", *labels] in page


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    ours = {
        "nerve": typer.main.get_command(app.cli.main.cli),
        "nerve-train": typer.main.get_command(training.cli.cli),
    }
    for name, *words in commands(read(page)):
        command = ours.get(name.removeprefix(".venv/bin/").removeprefix(".venv-dev/bin/"))
        if command is None:
            continue
        while inner := getattr(command, "commands", None):
            said, *words = words
            assert said in inner, f"{name} has no command {said}"
            command = inner[said]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= known, words


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    for name, *words in commands(read(page)):
        if name == "make":
            assert {word for word in words if re.fullmatch(r"[\w-]+", word)} <= targets


@pytest.mark.parametrize("page", PAGES)
def test_examples_are_well_formed(page: str) -> None:
    """Whatever is not makes its parser raise."""
    for block in blocks(read(page)):
        if block.language == "python":
            ast.parse(block.body)
        elif block.language == "toml":
            tomllib.loads(block.body)
        elif block.language == "json":
            try:
                json.loads(block.body)
            except ValueError:  # JSON lines
                for line in block.body.splitlines():
                    json.loads(line)


def test_the_least_recipe_is_one(tmp_path: Path) -> None:
    recipes = [block.body for block in blocks(read("docs/data.md")) if block.language == "toml"]
    (tmp_path / "harbour.toml").write_text(recipes[0], encoding="utf-8")
    assert load_recipe(tmp_path / "harbour.toml").name == "harbour"


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the models that are committed, its state elsewhere."""
    folder = tmp_path_factory.mktemp("committed")
    with serving(ROOT / "models", folder / "server.log", state_dir=folder) as running:
        yield running


def test_errors_are_those_of_the_api(committed: Server) -> None:
    said = {
        row[0]: set(re.findall(r"`(\w+)`", row[1]))
        for row in rows(read("docs/api.md"))
        if re.fullmatch(r"\d{3}", row[0])
    }
    documented: dict[str, set[str]] = {}
    for route in committed.client.get("/openapi.json").json()["paths"].values():
        for operation in route.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    codes = re.findall(r"`([a-z0-9_]+)`", response["description"])
                    documented.setdefault(status, set()).update(codes)
    documented["404"].add(committed.client.get("/nowhere").json()["code"])
    documented["405"] = {committed.client.delete("/ner").json()["code"]}
    assert said == documented


def test_routes_are_those_of_the_api(committed: Server) -> None:
    known = {
        f"{method.upper()} {path}"
        for path, route in committed.client.get("/openapi.json").json()["paths"].items()
        for method in route
    }
    for page in ("docs/api.md", "docs/settings.md", "docs/versions.md"):
        for named in re.findall(r"`((?:GET|PUT|POST|DELETE) /[\w/{}]+)`", read(page)):
            assert named.replace("NAME", "{name}") in known, named


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_requests_get_the_answers_that_are_shown(committed: Server, page: str) -> None:
    found = blocks(read(page))
    pairs = [
        (json.loads(body[1]), json.loads(second.body))
        for first, second in pairwise(found)
        if second.language == "json" and (body := re.search(r"-d '(.*)'", first.body))
    ]
    assert pairs
    for request, answer in pairs:
        assert _rounded(committed.client.post("/ner", json=request).json()) == _rounded(answer)


def test_the_python_example_runs(committed: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [block.body for block in blocks(read("docs/api.md")) if block.language == "python"]
    exec(compile(example.replace("http://localhost:8000", committed.url), "docs/api.md", "exec"), {})
    assert "PER Angela Merkel" in capsys.readouterr().out


def _rounded(answer: Any) -> Any:
    """With scores to one decimal: the last ones differ from processor to processor."""
    if isinstance(answer, dict):
        return {k: round(v, 1) if k == "score" else _rounded(v) for k, v in answer.items()}
    return [_rounded(item) for item in answer] if isinstance(answer, list) else answer
