"""Pages: the numbers of a report as an HTML page with plots, and as Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from training.evaluation import plots
from training.evaluation.errors import ErrorReport, Example

Numbers = dict[str, Any]
"""What `report.json` holds, or a part of it."""

UNCHANGED = "as it is"
"""The row of the robustness table that nothing was done to."""


def as_page(numbers: Numbers, errors: Mapping[str, Mapping[str, ErrorReport]]) -> str:
    """The page of a report.

    Args:
        numbers: what `report.json` holds.
        errors: of each version and corpus, for the examples that the page quotes.
    """
    environment = Environment(
        loader=PackageLoader("training.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    quoted = {
        name: {
            corpus: {kind: [_quoted(one) for one in some] for kind, some in of_corpus.examples.items()}
            for corpus, of_corpus in of_version.items()
        }
        for name, of_version in errors.items()
    }
    template = environment.get_template("report.html.j2")
    return template.render(numbers=numbers, quoted=quoted, plots=_plots(numbers), unchanged=UNCHANGED)


def as_markdown(numbers: Numbers) -> str:
    """The tables of a report, in Markdown."""
    versions, corpora = numbers["versions"], [corpus["name"] for corpus in numbers["corpora"]]
    parts: list[str] = []

    def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        marks = ["---", *["---:"] * (len(head) - 1)]
        lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, marks, *rows)]
        parts.append("\n".join([f"### {title}", "", *(f"| {line} |" for line in lines)]))

    if versions:
        table(
            "Versions",
            ["version", "average F1", *corpora, "parameters", "MB", "sub-tokens/s", "ms a sentence"],
            [
                [
                    one["name"],
                    _interval(one["average"]),
                    *(_interval(one["corpora"][corpus]["all"]["f1"]) for corpus in corpora),
                    *_speed(one["speed"]),
                ]
                for one in versions
            ]
            + [
                [f"{one['name']}, in PyTorch", *([""] * (1 + len(corpora))), *_speed(one)]
                for one in [numbers["torch"]]
                if one
            ],
        )
    if len(versions) > 1:
        table(
            f"Difference to {versions[0]['name']}, in points of F1 (* the interval excludes zero)",
            ["version", "average", *corpora],
            [
                [one["name"], *(_difference(one["difference"][key]) for key in ("average", *corpora))]
                for one in versions[1:]
            ],
        )
    for one in versions:
        table(
            f"{one['name']} by label",
            ["corpus", "label", "precision", "recall", "F1", "entities"],
            [
                [
                    corpus,
                    label,
                    *(_interval(row[m]) for m in ("precision", "recall", "f1")),
                    str(row["support"]),
                ]
                for corpus in corpora
                for label, row in {
                    "all": one["corpora"][corpus]["all"],
                    **one["corpora"][corpus]["labels"],
                }.items()
            ],
        )
        kinds = list(one["corpora"][corpora[0]]["errors"]["counts"])
        table(
            f"{one['name']}: kinds of errors, and recall of mentions that training showed",
            ["corpus", *kinds, "seen", "unseen"],
            [
                [
                    corpus,
                    *(str(sum(errors["counts"][kind].values())) for kind in kinds),
                    *(
                        f"{errors[key]['recall']:.1f} of {errors[key]['meant']}"
                        for key in ("seen", "unseen")
                    ),
                ]
                for corpus in corpora
                for errors in (one["corpora"][corpus]["errors"],)
            ],
        )
    if versions and versions[0]["robustness"]:
        table(
            "Average F1 after each perturbation",
            ["perturbation", *(one["name"] for one in versions)],
            [
                [kind, *(f"{one['robustness'][kind]['average']:.1f}" for one in versions)]
                for kind in versions[0]["robustness"]
            ],
        )
    if versions:
        table(
            "Expected calibration error on the test files, in percent",
            ["version", "ECE"],
            [[one["name"], f"{one['calibration']['ece']:.1f}"] for one in versions],
        )
    return "\n\n".join([*parts, f"Reprint it with `{numbers['command']}`."]) + "\n"


def _quoted(example: Example) -> Numbers:
    """An example as the page shows it: its excerpt, cut around the entities meant and found."""
    spans = [span for span in (example.meant, example.found) if span]
    start = min(span.start for span in spans) - example.start
    end = max(span.end for span in spans) - example.start
    return {
        "document": example.document,
        "cut": example.start > 0,
        "before": example.excerpt[:start],
        "marked": example.excerpt[start:end],
        "after": example.excerpt[end:],
        "meant": (example.meant_text, example.meant.label) if example.meant else None,
        "found": (
            (example.found_text, example.found.label, example.found.score) if example.found else None
        ),
    }


def _plots(numbers: Numbers) -> dict[str, Any]:
    """The plots there is data for, as SVG that the page takes as it is."""
    versions = numbers["versions"]
    drawn: dict[str, Any] = {
        "confusion": {
            one["name"]: Markup(
                plots.confusion_map(
                    f"{one['name']}: labels meant against labels found",
                    one["confusion"]["names"],
                    np.array(one["confusion"]["counts"]),
                )
            )
            for one in versions
        },
        "learning": {
            run["name"]: Markup(
                plots.learning_curve(f"{run['name']}: F1 by labelled texts", run["learning_curve"])
            )
            for run in numbers["runs"]
            if run["learning_curve"]
        },
        "training": {
            run["name"]: Markup(
                plots.training_curves(f"{run['name']}: dev F1 and loss by epoch", run["stages"])
            )
            for run in numbers["runs"]
            if run["stages"]
        },
    }
    if versions:
        curves = {one["name"]: one["calibration"] for one in versions}
        drawn["reliability"] = Markup(plots.reliability_diagram(curves))
    if versions and versions[0]["robustness"]:
        bars = {
            one["name"]: {kind.replace("_", " "): row["average"] for kind, row in one["robustness"].items()}
            for one in versions
        }
        drawn["robustness"] = Markup(plots.robustness_bars(bars))
    if len(versions) > 1:
        points = [
            plots.Point(
                one["name"],
                one["average"]["value"],
                one["average"]["low"],
                one["average"]["high"],
                one["speed"]["milliseconds_per_sentence"],
                one["speed"]["bytes"],
            )
            for one in versions
        ]
        drawn["pareto"] = Markup(plots.pareto(points))
    return drawn


def _speed(speed: Numbers) -> list[str]:
    return [
        f"{speed['parameters']:,}",
        f"{speed['bytes'] / 1e6:.1f}",
        f"{speed['tokens_per_second']:,.0f}",
        f"{speed['milliseconds_per_sentence']:.2f}",
    ]


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:.2f} [{one['low']:.1f}, {one['high']:.1f}]"


def _difference(one: Mapping[str, float]) -> str:
    mark = " *" if one["low"] > 0 or one["high"] < 0 else ""
    p = f"p = {one['p_value']:.3f}" if one["p_value"] >= 0.001 else "p < 0.001"
    return f"{one['value']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}], {p}{mark}"
