from pathlib import Path

import pytest

from tests.training.evaluation.reports import write_run
from training.evaluation.runs import LearningCurve, Line, read_run, sort_folders
from training.progress import Epoch


def test_folders_are_sorted_by_what_they_hold(models_dir: Path, tmp_path: Path) -> None:
    version, run = models_dir / "ner-en/1", write_run(tmp_path / "run")
    assert sort_folders([run, version]) == ([version.resolve()], [run.resolve()])
    with pytest.raises(
        ValueError, match=r"models: neither a version \(it would hold manifest.json\) nor a run"
    ):
        sort_folders([models_dir])
    with pytest.raises(ValueError, match="nothing to report on"):
        sort_folders([])


def test_a_run_has_its_stages_and_no_half_written_one(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert (run.name, list(run.stages)) == ("run", ["student/transfer", "teachers/seed-1"])
    assert run.stages["teachers/seed-1"][1] == Epoch(2, 0.5, {"dev": 62.0}, 62.0)


def test_trainings_of_a_search_are_no_stages(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "student").rename(run / "search")
    assert list(read_run(run).stages) == ["teachers/seed-1"]


def test_a_learning_curve_has_a_line_for_each_way_of_learning(tmp_path: Path) -> None:
    curve = read_run(write_run(tmp_path / "run")).learning_curve
    assert curve is not None
    assert curve.sizes == [10, 100]
    assert curve.lines["distilled"] == Line([55.0, 66.0], None, None)
    sure = LearningCurve({"sizes": [1], "alone": [5.0], "alone_low": [4.0], "alone_high": [6.0]})
    assert sure.lines == {"alone": Line([5.0], [4.0], [6.0])}


@pytest.mark.parametrize(
    ("content", "problem"),
    [("[{", "not JSON"), ("{}", "holds no list"), ('[{"n": 1}]', "not the epochs of a training")],
)
def test_a_damaged_history_is_named(tmp_path: Path, content: str, problem: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "student/transfer/state/history.json").write_text(content)
    with pytest.raises(ValueError, match=rf"student/transfer/state/history\.json: {problem}"):
        read_run(run)
