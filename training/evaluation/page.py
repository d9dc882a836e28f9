"""The page shows the findings of a report as HTML with plots, in one file without references."""

from collections.abc import Iterable
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from training.evaluation import plots
from training.evaluation.errors import Example, Kind
from training.evaluation.findings import UNCHANGED, CorpusFindings, Report


@dataclass(frozen=True)
class Quotation:
    """Is an error as the page shows it.

    Attributes:
        cut: whether the document has text before the excerpt.
        before, marked, after: the excerpt in three parts; `marked` spans the meant and found entities.
        example: the error.
    """

    cut: bool
    before: str
    marked: str
    after: str
    example: Example


@dataclass(frozen=True)
class Plots:
    """Holds the plots as safe SVG; a plot without data is None or missing.

    Attributes:
        confusion: plots by version.
        learning, training: plots by run.
        reliability, robustness, pareto: one plot for all versions together.
    """

    confusion: dict[str, Markup]
    learning: dict[str, Markup]
    training: dict[str, Markup]
    reliability: Markup | None
    robustness: Markup | None
    pareto: Markup | None


def as_page(report: Report) -> str:
    """Render the page of a report."""
    environment = Environment(
        loader=PackageLoader("training.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.j2")
    return template.render(report=report, plots=_plots(report), quoted=_quoted, unchanged=UNCHANGED)


def _quoted(corpus: CorpusFindings) -> dict[Kind, list[Quotation]]:
    """Return the examples of each kind of error, without kinds that have none."""
    examples: Iterable[tuple[Kind, tuple[Example, ...]]] = corpus.errors.examples.items()
    return {kind: [_quotation(one) for one in some] for kind, some in examples if some}


def _quotation(example: Example) -> Quotation:
    spans = [span for span in (example.meant, example.found) if span]
    start = min(span.start for span in spans) - example.start
    end = max(span.end for span in spans) - example.start
    excerpt = example.excerpt
    return Quotation(example.start > 0, excerpt[:start], excerpt[start:end], excerpt[end:], example)


def _plots(report: Report) -> Plots:
    versions = report.versions
    robustness = reliability = pareto = None
    if versions:
        reliability = Markup(plots.reliability_diagram({one.name: one.calibration for one in versions}))
    if versions and versions[0].robustness:
        bars = {
            one.name: {kind.replace("_", " "): row.average for kind, row in one.robustness.items()}
            for one in versions
        }
        robustness = Markup(plots.robustness_bars(bars))
    if len(versions) > 1:
        pareto = Markup(plots.pareto([plots.Point(one.name, one.average, one.speed) for one in versions]))
    return Plots(
        confusion={
            one.name: Markup(
                plots.confusion_map(f"{one.name}: labels meant against labels found", one.confusion)
            )
            for one in versions
        },
        learning={
            run.name: Markup(plots.learning_curve(f"{run.name}: F1 by labelled texts", run.learning_curve))
            for run in report.runs
            if run.learning_curve
        },
        training={
            run.name: Markup(plots.training_curves(f"{run.name}: dev F1 and loss by epoch", run.stages))
            for run in report.runs
            if run.stages
        },
        reliability=reliability,
        robustness=robustness,
        pareto=pareto,
    )
