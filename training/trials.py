"""This module writes the trials of a search as a page with plots."""

import json
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from matplotlib import pyplot
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

ERROR = "error"
"""The attribute of a trial that failed because of its values; it holds the error message."""

Value = bool | int | float | str


def counts(trial: FrozenTrial) -> bool:
    """Say whether a trial ended without an interruption: complete, pruned, or failed by its values."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or ERROR in trial.user_attrs


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were trained to their end."""
    found: list[FrozenTrial] = study.get_trials(states=(TrialState.COMPLETE,))
    return found


def as_changes(values: Mapping[str, Value]) -> list[str]:
    """Return the values in the form of `--set`, without rounding."""
    return [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]


def spelled(values: Mapping[str, Value]) -> str:
    """Return the values, rounded, for a line of a log."""
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def table(study: optuna.Study, names: Sequence[str], title: str) -> str:
    """Return the trials as Markdown, best first, and the `--set` options that reproduce the best.

    Args:
        names: the dotted keys of the searched values.
    """
    trials = sorted(filter(counts, study.trials), key=_rank)
    lines = [
        f"# {title}",
        "",
        f"Average dev F1 in percent; {len(trials)} trials.",
        "",
        f"| trial | dev F1 | {' | '.join(f'`{name}`' for name in names)} | |",
        f"|---:|---:|{'---:|' * len(names)}---|",
    ]
    for trial in trials:
        f1 = "" if trial.value is None else f"{trial.value:.2f}"
        values = " | ".join(_short(trial.params.get(name, "")) for name in names)
        lines.append(f"| {trial.number} | {f1} | {values} | {_remark(trial)} |")
    if complete(study):
        options = [part for change in as_changes(study.best_params) for part in ("--set", change)]
        lines += ["", "The best, for any command that takes the recipe:", "", f"    {shlex.join(options)}"]
    return "\n".join(lines) + "\n"


def draw(study: optuna.Study, stem: Path) -> str:
    """Write the plots that the trials allow as `<stem>-<plot>.svg`; return the Markdown that shows them."""
    values = {trial.value for trial in complete(study)}
    wanted: dict[str, Callable[..., Any]] = {}
    if values:
        wanted |= {"history": plots.plot_optimization_history, "slice": plots.plot_slice}
    if len(values) > 1:
        wanted["importances"] = plots.plot_param_importances
    matplotlib.use("agg")  # this backend needs no screen
    lines = []
    for name, plot in wanted.items():
        file = stem.with_name(f"{stem.name}-{name}.svg")
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optuna warns that its plots are experimental
            plot(study, target=_value, target_name="dev F1")
            pyplot.gcf().savefig(file, bbox_inches="tight", metadata={"Date": None})
        pyplot.close("all")
        lines.append(f"\n![{name}]({file.name})\n")
    return "".join(lines)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return float(trial.value)


def _rank(trial: FrozenTrial) -> tuple[int, float]:
    """Return a sort key: complete trials by falling F1, then pruned ones, then failed ones."""
    order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL).index(trial.state)
    return order, 0.0 if trial.value is None else -trial.value


def _remark(trial: FrozenTrial) -> str:
    if trial.state == TrialState.PRUNED:
        return "ended early"
    return f"failed: {trial.user_attrs[ERROR]}".replace("|", "\\|") if ERROR in trial.user_attrs else ""


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
