"""The README says what the code does."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.manifest import read_manifest
from app.settings import Settings
from tests.servers import Server, serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_stands_in_its_table_with_its_default() -> None:
    rows = re.findall(r"^\| `NERVE_(\w+)` \| (.*?) \| (.*) \|$", README, re.MULTILINE)
    expected = []
    for name, field in Settings.model_fields.items():
        default = field.default
        plain = str(default).lower() if isinstance(default, bool) else str(default)
        shown = "" if default in (None, ()) else plain
        expected.append((name.upper(), f"`{shown}`" if shown else "", field.description))
    assert rows == expected


def test_the_scores_are_the_default_models() -> None:
    metrics = read_manifest(ROOT / "models/ner-en/4").metrics["test"]
    for name, corpus in metrics["corpora"].items():
        labels = " | ".join(f"{corpus['labels'][label]['f1']:.2f}" for label in ("PER", "ORG", "LOC"))
        assert f"| {name} | {corpus['f1']:.2f} | {labels} |" in README
    assert f"| **average** | **{metrics['average_f1']:.2f}** |" in README


@pytest.mark.parametrize("version", ["ner-en/4", "ner-en-small/4", "ner-en-fast/2"])
def test_the_family_is_as_its_manifests_say(version: str) -> None:
    metrics = read_manifest(ROOT / "models" / version).metrics["test"]
    f1s = " | ".join(f"{corpus['f1']:.2f}" for corpus in metrics["corpora"].values())
    average = f"{metrics['average_f1']:.2f}"
    row = rf"^\| `{version}` \|.*\| \*\*{average}\*\*.* \| {re.escape(f1s)} \|"
    assert re.search(row, README, re.MULTILINE)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the models that are committed, its state elsewhere."""
    folder = tmp_path_factory.mktemp("committed")
    with serving(ROOT / "models", folder / "server.log", state_dir=folder) as running:
        yield running


def test_the_python_example_runs(committed: Server) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example.replace("http://localhost:8000", committed.url), "README.md", "exec"), {})


@pytest.mark.parametrize("field", ["text", "texts"])
def test_the_curl_examples_print_what_they_say(committed: Server, field: str) -> None:
    found = re.search(rf"-d '(\{{\"{field}\": .*?\}})'\n\s+(\{{.*\}})\n", README)
    assert found
    answer = committed.client.post("/ner", json=json.loads(found[1])).json()
    assert _rounded(answer) == _rounded(json.loads(found[2]))


def _rounded(answer: Any) -> Any:
    """With scores to one decimal: the last ones differ from processor to processor."""
    if isinstance(answer, dict):
        return {k: round(v, 1) if k == "score" else _rounded(v) for k, v in answer.items()}
    return [_rounded(item) for item in answer] if isinstance(answer, list) else answer
