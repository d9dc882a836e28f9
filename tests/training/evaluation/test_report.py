import json
import re
from pathlib import Path

import pytest

from tests.training.evaluation.reports import QUICK, write_run
from training.evaluation.report import report
from training.recipe import Recipe


def test_a_run_alone_is_drawn_without_corpora(recipe: Recipe, tmp_path: Path) -> None:
    gone = recipe.model_copy(update={"data_root": str(tmp_path / "nowhere")})
    path = report([write_run(tmp_path / "run")], gone, tmp_path / "report.html", **QUICK)
    assert re.findall(r'<section id="(\w+)"', path.read_text()) == ["learning", "training", "method"]
    (run,) = json.loads(path.with_suffix(".json").read_text())["runs"]
    assert list(run["stages"]) == ["student/transfer", "teachers/seed-1"]  # and no half-written one
    assert run["stages"]["teachers/seed-1"][1]["average"] == 62.0


def test_only_the_page_quotes_the_corpora(written: Path) -> None:
    for suffix in (".md", ".json"):
        text = written.with_suffix(suffix).read_text(encoding="utf-8")
        assert "Karl" not in text
        assert "Leeds" not in text


def test_it_says_how_to_reprint_it(models_dir: Path, recipe: Recipe, tmp_path: Path) -> None:
    folder, output = models_dir / "ner-en/1", tmp_path / "my report/report.html"
    path = report([folder], recipe, output, **QUICK)
    meant = f"nerve-train report {folder} --recipe {recipe.file} -o '{output.parent}' --quick"
    assert json.loads(path.with_suffix(".json").read_text())["command"] == meant
    report([folder], recipe, output, **QUICK, command="make report")
    assert "<pre>make report</pre>" in path.read_text()


def test_nothing_is_written_where_a_file_of_a_run_is_damaged(recipe: Recipe, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "student/transfer/state/history.json").write_text("[{")
    with pytest.raises(ValueError, match="not JSON"):
        report([run], recipe, tmp_path / "report.html", **QUICK)
    assert not (tmp_path / "report.html").exists()
