"""The report shows versions side by side on a recipe's test files.

`report.html` is a page in one file; `report.md` holds its tables, for a model card; `report.json` holds
every number, so that a program can compare two reports. Only the page quotes the corpora.
"""

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from app.files import write_whole
from training.evaluation.comparison import Effort, compare
from training.evaluation.findings import Report, ReportRecipe, as_json
from training.evaluation.machine import machine
from training.evaluation.page import as_page
from training.evaluation.runs import read_run, sort_folders
from training.evaluation.tables import as_markdown
from training.progress import Say
from training.recipe import Recipe


def report(
    folders: Sequence[Path],
    recipe: Recipe,
    output: Path,
    *,
    resamples: int = 10_000,
    robustness: bool = True,
    torch: bool = False,
    command: str = "",
    say: Say = print,
) -> Path:
    """Measure versions on the recipe's test files and write the page, and beside it `.md` and `.json`.

    Args:
        folders: folders of versions or of runs, in any order; the others are compared with the first
            version. The files `history.json` and `learning_curve.json` of a run are plotted.
        output: the page, such as `reports/report.html`.
        resamples: number of draws of each bootstrap.
        robustness: whether every version also runs on every perturbation, the slowest part.
        torch: whether to time the recipe's encoder in PyTorch too.
        command: the command that makes the report again; derived from the arguments if empty.

    Returns:
        `output`.

    Raises:
        ValueError: a folder is neither a version nor a run, a version has other labels than the
            recipe, the recipe has no test files, or a run's file cannot be read.
        FileNotFoundError: a corpus is missing. VersionRefused: a version fails its checks.
    """
    versions, runs = sort_folders(folders)
    created, here = datetime.now(UTC).isoformat(timespec="seconds"), machine()
    drawn = tuple(read_run(folder) for folder in runs)
    compared = compare(versions, recipe, Effort(resamples, robustness, torch), say)
    made = Report(
        created=created,
        command=command or _command(folders, recipe, output, robustness),
        recipe=ReportRecipe(recipe.name, recipe.file),
        labels=recipe.labels,
        resamples=resamples,
        machine=here,
        corpora=compared.corpora,
        versions=compared.versions,
        runs=drawn,
        torch=compared.torch,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(as_json(made), indent=1, ensure_ascii=False) + "\n"
    write_whole(output.with_suffix(".json"), content)
    write_whole(output.with_suffix(".md"), as_markdown(made))
    write_whole(output, as_page(made))
    return output


def _command(folders: Sequence[Path], recipe: Recipe, output: Path, robustness: bool) -> str:
    arguments = [*map(str, folders), "--recipe", recipe.file, "-o", str(output.parent)]
    return shlex.join(["nerve-train", "report", *arguments, *([] if robustness else ["--quick"])])
