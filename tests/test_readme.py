"""The first page says what the code does, and says the same in Chinese."""

import re

import pytest

from app.manifest import read_manifest
from tests.markdown import ROOT, blocks, links, read, rows

PAGES = ("README.md", "README.zh.md")


@pytest.mark.parametrize("page", PAGES)
def test_it_is_short(page: str) -> None:
    assert len(read(page).splitlines()) <= 150


def test_both_languages_show_the_same() -> None:
    english, chinese = read("README.md"), read("README.zh.md")
    assert blocks(english) == blocks(chinese)
    assert _figures(english) == _figures(chinese)
    ours = {"README.md", "README.zh.md", "docs/images/architecture.svg", "docs/images/architecture.zh.svg"}
    assert set(links(english)) - ours == set(links(chinese)) - ours
    assert english.count("\n## ") == chinese.count("\n## ")


def _figures(page: str) -> list[list[str]]:
    """The figures of each line of its tables, and the names of versions."""
    return [re.findall(r"`[\w/-]+`|\d[\d.]*M?", " ".join(row)) for row in rows(page)]


@pytest.mark.parametrize("page", [*PAGES, "docs/models.md"])
@pytest.mark.parametrize("version", ["ner-en/4", "ner-en-small/4", "ner-en-fast/2"])
def test_the_family_is_as_its_manifests_say(page: str, version: str) -> None:
    metrics = read_manifest(ROOT / "models" / version).metrics["test"]
    f1s = [f"{corpus['f1']:.2f}" for corpus in metrics["corpora"].values()]
    line = next(row for row in rows(read(page)) if row[0].startswith(f"`{version}`"))
    at = next(number for number, cell in enumerate(line) if cell.startswith("**"))
    assert line[at].startswith(f"**{metrics['average_f1']:.2f}**")
    assert line[at + 1 : at + 5] == f1s


def test_spacy_has_the_same_figures_on_all_pages() -> None:
    found = {
        tuple(re.findall(r"\d\d\.\d\d", " ".join(row)))
        for page in [*PAGES, "docs/models.md"]
        for row in rows(read(page))
        if row[0].startswith("spaCy")
    }
    assert len(found) == 1


@pytest.mark.parametrize("name", ["architecture", "architecture.zh", "speed"])
def test_pictures_are_readable_on_light_and_dark_pages(name: str) -> None:
    picture = read(f"docs/images/{name}.svg")
    assert "prefers-color-scheme: dark" in picture
    assert "<title>" in picture
