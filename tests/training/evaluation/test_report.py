import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import LABELS, write_tiny_version
from training.data.corpora import load_held_out
from training.evaluation.evaluate import evaluate
from training.evaluation.report import report, sort_folders
from training.evaluation.robustness import PERTURBATIONS
from training.recipe import Recipe, load_recipe

QUICK = {"resamples": 200, "robustness": False, "say": lambda _: None}

SENTENCES = {
    "train": [("Angela Merkel left IBM.", [(0, 13, "PER"), (19, 22, "ORG")])],
    "dev": [("Nobody left New York.", [(12, 20, "LOC")])],
    "news": [
        ("Angela Merkel visited IBM in New York.", [(0, 13, "PER"), (22, 25, "ORG"), (29, 37, "LOC")]),
        ("<script>alert(1)</script> says Karl & co", [(31, 35, "PER")]),
        ("Perhaps they went to York | Leeds.", [(21, 25, "LOC"), (28, 33, "LOC")]),
        ("Then IBM, she said.", [(5, 8, "ORG")]),
    ],
    "web": [("angela went home", [(0, 6, "PER")]), ("it is late", []), ("ibm", [(0, 3, "ORG")])],
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return write_recipe(tmp_path_factory.mktemp("data"))


def write_recipe(folder: Path, test: tuple[str, ...] = ("news", "web")) -> Recipe:
    lines = [
        'name = "tiny"',
        f'labels = ["{LABELS[0]}", "{LABELS[1]}", "{LABELS[2]}"]',
        f'data_root = "{folder}"',
        "[encoder]",
        'path = "none"',
    ]
    for kind, name in (("train", "train"), ("dev", "dev"), *(("test", name) for name in test)):
        records = (
            {"text": text, "entities": [{"start": s, "end": e, "label": label} for s, e, label in spans]}
            for text, spans in SENTENCES[name]
        )
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
        lines += [f"[[{kind}]]", f'name = "{name}"', f'paths = ["{name}.jsonl"]', 'reader = "jsonl"']
    (folder / "tiny.toml").write_text("\n".join(lines))
    return load_recipe(folder / "tiny.toml")


def write_run(folder: Path) -> Path:
    """What training leaves behind: two stages, one of them half written, and a learning curve."""
    epochs = [{"number": n, "loss": 1 / n, "dev": {"dev": 60.0 + n}, "average": 60.0 + n} for n in (1, 2)]
    for stage in ("teachers/seed-1/state", "student/transfer/state", "student/.state.new"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "history.json").write_text(json.dumps(epochs))
    curve = {"sizes": [10, 100], "alone": [40.0, 60.0], "distilled": [55.0, 66.0]}
    (folder / "learning_curve.json").write_text(json.dumps(curve))
    (folder / "recipe.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Path:
    """A report on two versions and a run: the second takes IBM for a person."""
    folder = tmp_path_factory.mktemp("report")
    fitted = {"temperature": 2.0, "thresholds": {"ORG": 0.3}, "ece_before": 13.25, "ece_after": 4.75}
    first = write_tiny_version(folder / "models", metrics={"calibration": fitted})
    second = write_tiny_version(folder / "models", version=2, ibm="PER")
    run = write_run(folder / "runs/tiny")
    arguments: dict[str, Any] = QUICK | {"robustness": True}
    return report([first, run, second], recipe, folder / "out/report.html", **arguments)


@pytest.fixture(scope="module")
def numbers(written: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(written.with_suffix(".json").read_text(encoding="utf-8"))
    return content


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


def test_a_run_alone_is_drawn_without_corpora(recipe: Recipe, tmp_path: Path) -> None:
    gone = recipe.model_copy(update={"data_root": str(tmp_path / "nowhere")})
    path = report([write_run(tmp_path / "run")], gone, tmp_path / "report.html", **QUICK)
    assert sections(path) == ["learning", "training", "method"]
    (run,) = json.loads(path.with_suffix(".json").read_text())["runs"]
    assert list(run["stages"]) == ["student/transfer", "teachers/seed-1"]  # and no half-written one
    assert run["stages"]["teachers/seed-1"][1]["average"] == 62.0


def test_text_of_corpora_is_quoted_as_text(written: Path) -> None:
    page = written.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; says <mark>Karl</mark> &amp; co" in page
    assert "<script>" not in page
    assert "meant PER “Karl”" in page


def test_only_the_page_quotes_the_corpora(written: Path) -> None:
    for suffix in (".md", ".json"):
        text = written.with_suffix(suffix).read_text(encoding="utf-8")
        assert "Karl" not in text
        assert "Leeds" not in text


def test_scores_are_those_of_an_evaluation(written: Path, numbers: dict[str, Any], recipe: Recipe) -> None:
    models = written.parents[1] / "models/ner-en"
    for number, found in zip((1, 2), numbers["versions"], strict=True):
        meant = evaluate(models / str(number), load_held_out(recipe.test, recipe), tokens=True)
        assert found["average"]["value"] == pytest.approx(meant["average_f1"], abs=0.01)
        for corpus, row in meant["corpora"].items():
            assert found["corpora"][corpus]["tokens"] == row["tokens"]
            for label, scores in {"all": row, **row["labels"]}.items():
                of_label = {"all": found["corpora"][corpus]["all"], **found["corpora"][corpus]["labels"]}[
                    label
                ]
                assert of_label["support"] == scores["support"]
                for metric in ("precision", "recall", "f1"):
                    interval = of_label[metric]
                    assert interval["value"] == pytest.approx(scores[metric], abs=0.01)
                    assert interval["low"] <= interval["high"]


def test_versions_are_compared_with_the_first(numbers: dict[str, Any]) -> None:
    first, second = numbers["versions"]
    assert first["difference"] is None
    assert list(second["difference"]) == ["average", "news", "web"]
    gap = second["average"]["value"] - first["average"]["value"]
    assert gap < 0  # it takes firms for persons
    assert second["difference"]["average"]["value"] == pytest.approx(gap)


def test_a_version_differs_from_its_twin_in_nothing(
    models_dir: Path, recipe: Recipe, tmp_path: Path
) -> None:
    folders = [models_dir / "ner-en/1", write_tiny_version(models_dir, version=2)]
    path = report(folders, recipe, tmp_path / "report.html", **QUICK)
    assert "+0.0 [+0.0, +0.0], p = 1.000 |" in path.with_suffix(".md").read_text()
    assert '<td class="n">0.0' in path.read_text()
    assert "p = 1.000</small>" in path.read_text()


def test_errors_and_confusion_add_up(numbers: dict[str, Any]) -> None:
    for version in numbers["versions"]:
        for corpus in numbers["corpora"]:
            errors = version["corpora"][corpus["name"]]["errors"]
            meant = sum(sum(row.values()) for kind, row in errors["counts"].items() if kind != "spurious")
            assert meant == corpus["entities"] == errors["seen"]["meant"] + errors["unseen"]["meant"]
        counts, names = version["confusion"]["counts"], version["confusion"]["names"]
        assert sum(map(sum, counts[: names.index("none")])) == sum(
            c["entities"] for c in numbers["corpora"]
        )


def test_every_perturbation_is_reported(numbers: dict[str, Any], written: Path) -> None:
    for version in numbers["versions"]:
        kinds = version["robustness"]
        assert list(kinds) == ["as it is", *PERTURBATIONS]
        assert kinds["as it is"]["average"] == pytest.approx(version["average"]["value"])
    assert "no punctuation" in written.read_text(encoding="utf-8")


def test_calibration_says_what_was_fitted(numbers: dict[str, Any], written: Path) -> None:
    assert numbers["versions"][0]["fitted"]["ece_before"] == 13.25
    assert numbers["versions"][1]["fitted"] is None
    page = written.read_text(encoding="utf-8")
    assert "13.2" in page
    assert "fitted on dev files" in page


def test_every_version_has_a_size_and_a_speed(numbers: dict[str, Any], written: Path) -> None:
    for version in numbers["versions"]:
        assert version["speed"]["name"] == version["name"]
        assert version["speed"]["bytes"] > 0
        assert version["speed"]["tokens_per_second"] > 0


def test_markdown_holds_whole_tables(written: Path) -> None:
    text = written.with_suffix(".md").read_text(encoding="utf-8")
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "| web | all |" in text
    assert text.rstrip().endswith("`.")


def test_it_says_how_to_reprint_it(models_dir: Path, recipe: Recipe, tmp_path: Path) -> None:
    folder, output = models_dir / "ner-en/1", tmp_path / "my report/report.html"
    path = report([folder], recipe, output, **QUICK)
    meant = f"nerve-train report {folder} --recipe {recipe.file} -o '{output.parent}' --quick"
    assert json.loads(path.with_suffix(".json").read_text())["command"] == meant
    report([folder], recipe, output, **QUICK, command="make report")  # type: ignore[arg-type]
    assert "<pre>make report</pre>" in path.read_text()


def test_two_versions_of_one_name_are_told_apart(recipe: Recipe, tmp_path: Path) -> None:
    folders = [write_tiny_version(tmp_path / "old"), write_tiny_version(tmp_path / "new", ibm="PER")]
    path = report(folders, recipe, tmp_path / "report.html", **QUICK)
    names = [version["name"] for version in json.loads(path.with_suffix(".json").read_text())["versions"]]
    assert names == ["old/ner-en/1", "new/ner-en/1"]
    with pytest.raises(ValueError, match="a version is named twice"):
        report([folders[0], folders[0]], recipe, tmp_path / "report.html", **QUICK)


def test_folders_are_sorted_by_what_they_hold(models_dir: Path, tmp_path: Path) -> None:
    version, run = models_dir / "ner-en/1", write_run(tmp_path / "run")
    assert sort_folders([run, version]) == ([version.resolve()], [run.resolve()])
    with pytest.raises(
        ValueError, match=r"models: neither a version \(it would hold manifest.json\) nor a run"
    ):
        sort_folders([models_dir])
    with pytest.raises(ValueError, match="nothing to report on"):
        sort_folders([])


def test_a_version_with_other_labels_is_refused(models_dir: Path, recipe: Recipe, tmp_path: Path) -> None:
    fewer = recipe.model_copy(update={"labels": ("PER",)})
    with pytest.raises(ValueError, match=r"ner-en/1: its labels are PER, ORG, LOC, the recipe's PER; "):
        report([models_dir / "ner-en/1"], fewer, tmp_path / "report.html", **QUICK)


def test_a_recipe_without_test_files_is_refused(models_dir: Path, tmp_path: Path) -> None:
    nothing = write_recipe(tmp_path, test=())
    with pytest.raises(ValueError, match=r"tiny\.toml: no \[\[test\]\] corpora"):
        report([models_dir / "ner-en/1"], nothing, tmp_path / "report.html", **QUICK)


@pytest.mark.parametrize(("content", "problem"), [("[{", "not JSON"), ("{}", "holds no list")])
def test_a_damaged_history_is_named(recipe: Recipe, tmp_path: Path, content: str, problem: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "student/transfer/state/history.json").write_text(content)
    with pytest.raises(ValueError, match=rf"student/transfer/state/history\.json: {problem}"):
        report([run], recipe, tmp_path / "report.html", **QUICK)
    assert not (tmp_path / "report.html").exists()
