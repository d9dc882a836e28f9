import re
from pathlib import Path

from tests.tiny import write_tiny_version
from tests.training.evaluation.reports import QUICK
from training.evaluation.report import report
from training.recipe import Recipe


def test_markdown_holds_whole_tables(written: Path) -> None:
    text = written.with_suffix(".md").read_text(encoding="utf-8")
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "| web | all |" in text
    assert text.rstrip().endswith("`.")


def test_a_version_differs_from_its_twin_in_nothing(
    models_dir: Path, recipe: Recipe, tmp_path: Path
) -> None:
    folders = [models_dir / "ner-en/1", write_tiny_version(models_dir, version=2)]
    path = report(folders, recipe, tmp_path / "report.html", **QUICK)
    assert "+0.0 [+0.0, +0.0], p = 1.000 |" in path.with_suffix(".md").read_text()
    assert '<td class="n">0.0' in path.read_text()
    assert "p = 1.000</small>" in path.read_text()
