"""The page of a search, of trials that were never trained."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from training.changes import apply_change
from training.trials import ERROR, as_changes, complete, counts, draw, spelled, table

RATE = "finetune.lr"


def study_of(*trials: tuple[TrialState, float | None, float, str]) -> optuna.Study:
    """A study of trials, each with its state, its value, its learning rate and why it failed."""
    study = optuna.create_study(direction="maximize")
    for state, value, rate, error in trials:
        study.add_trial(
            create_trial(
                state=state,
                value=value,
                params={RATE: rate},
                distributions={RATE: FloatDistribution(1e-6, 1.0)},
                user_attrs={ERROR: error} if error else {},
            )
        )
    return study


MIXED = (
    (TrialState.FAIL, None, 0.1, "heads | width do not go together"),
    (TrialState.PRUNED, 40.0, 0.2, ""),
    (TrialState.COMPLETE, 70.25, 0.03, ""),
    (TrialState.FAIL, None, 0.4, ""),  # it was interrupted
    (TrialState.COMPLETE, 80.5, 0.012345678, ""),
    (TrialState.PRUNED, 60.0, 0.6, ""),
)


def rows(page: str) -> list[list[str]]:
    """The cells of each trial's row."""
    lines = [line for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_only_trials_that_came_to_an_end_of_their_own_count() -> None:
    study = study_of(*MIXED)
    assert [trial.number for trial in study.trials if counts(trial)] == [0, 1, 2, 4, 5]
    assert [trial.number for trial in complete(study)] == [2, 4]


def test_trials_are_listed_best_first_then_those_that_ended_early_then_failures() -> None:
    page = table(study_of(*MIXED), [RATE], "toy")
    assert "5 trials" in page
    assert rows(page)[:4] == [
        ["4", "80.50", "0.01235", ""],
        ["2", "70.25", "0.03", ""],
        ["5", "60.00", "0.6", "ended early"],
        ["1", "40.00", "0.2", "ended early"],
    ]
    assert "| 0 |  | 0.1 | failed: heads \\| width do not go together |" in page


def test_the_best_is_given_to_the_last_bit() -> None:
    page = table(study_of(*MIXED), [RATE], "toy")
    assert shlex.split(page.splitlines()[-1]) == ["--set", f"{RATE}=0.012345678"]


def test_without_a_whole_trial_there_is_no_best_and_no_plot(tmp_path: Path) -> None:
    study = study_of(MIXED[0], MIXED[1])
    assert "--set" not in table(study, [RATE], "toy")
    assert draw(study, tmp_path / "finetune") == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "plots"),
    [([70.0], ["history", "slice"]), ([70.0, 80.0], ["history", "slice", "importances"])],
)
def test_the_plots_that_there_is_data_for_are_drawn(
    tmp_path: Path, values: list[float], plots: list[str]
) -> None:
    study = study_of(*((TrialState.COMPLETE, value, value / 100, "") for value in values))
    markdown = draw(study, tmp_path / "finetune")
    files = [f"finetune-{plot}.svg" for plot in plots]
    assert markdown == "".join(f"\n![{plot}]({file})\n" for plot, file in zip(plots, files, strict=True))
    assert {path.name for path in tmp_path.iterdir()} == set(files)
    assert all("<svg" in path.read_text(encoding="utf-8") for path in tmp_path.iterdir())


names = st.sampled_from(["finetune.lr", "finetune.epochs", "export.gate"])
values = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x7f"))
)


@given(st.dictionaries(names, values))
def test_changes_set_exactly_these_values(wanted: Mapping[str, Any]) -> None:
    tables: dict[str, Any] = {}
    for change in as_changes(wanted):
        apply_change(tables, change)
    found = {f"{table}.{key}": value for table, keys in tables.items() for key, value in keys.items()}
    assert found == dict(wanted)
    assert [type(value) for value in found.values()] == [type(wanted[name]) for name in found]


def test_a_line_of_a_log_has_few_digits() -> None:
    said = {"lr": 0.000123456, "layers": 3, "kind": "cnn", "on": True}
    assert spelled(said) == "lr 0.0001235, layers 3, kind cnn, on True"
