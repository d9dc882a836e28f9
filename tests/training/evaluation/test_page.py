import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from tests.training.evaluation.reports import QUICK
from training.evaluation.report import report
from training.recipe import Recipe


class Page(HTMLParser):
    """Tags, attributes and names of a page; knows when a tag is closed that is not open."""

    EMPTY = frozenset({"meta", "br"})

    def __init__(self, path: Path):
        super().__init__()
        self.tags = Counter[str]()
        self.ids = Counter[str]()
        self.attributes: list[tuple[str, str]] = []
        self.stray: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.stray += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids.update(value or "" for name, value in attrs if name == "id")

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()
        else:
            self.stray.append(tag)


def sections(path: Path) -> list[str]:
    return re.findall(r'<section id="(\w+)"', path.read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(written: Path) -> None:
    page, text = Page(written), written.read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in {"src", "srcset", "data", "action"}]
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    targets = [value for name, value in page.attributes if name.endswith("href")]
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert not re.search(r"@import|url\((?!#)|https?://", text)


def test_the_page_is_whole(written: Path) -> None:
    page = Page(written)
    assert page.stray == []
    assert [name for name, count in page.ids.items() if count > 1] == []
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(page.ids)
    assert [path.name for path in sorted(written.parent.iterdir())] == [
        "report.html",
        "report.json",
        "report.md",
    ]


def test_sections_are_read_in_order(written: Path) -> None:
    assert sections(written) == [
        *("overview", "labels", "errors", "robustness", "calibration", "learning", "pareto"),
        *("training", "method"),
    ]
    contents = re.findall(r'<li><a href="#(\w+)"', written.read_text(encoding="utf-8"))
    assert contents == sections(written)


def test_sections_without_data_are_left_out(models_dir: Path, recipe: Recipe, tmp_path: Path) -> None:
    path = report([models_dir / "ner-en/1"], recipe, tmp_path / "report.html", **QUICK)
    assert sections(path) == ["overview", "labels", "errors", "calibration", "method"]
    assert "Difference" not in path.read_text() + path.with_suffix(".md").read_text()


def test_text_of_corpora_is_quoted_as_text(written: Path) -> None:
    page = written.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; says <mark>Karl</mark> &amp; co" in page
    assert "<script>" not in page
    assert "meant PER “Karl”" in page
