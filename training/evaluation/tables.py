"""The tables show the findings of a report in Markdown."""

from collections.abc import Sequence

from training.evaluation.benchmark import Speed
from training.evaluation.findings import Report, VersionFindings
from training.evaluation.significance import Difference, Interval

Row = Sequence[str]


def as_markdown(report: Report) -> str:
    """Format the tables of a report."""
    parts = []
    if report.versions:
        parts.append(_versions(report))
    if len(report.versions) > 1:
        parts.append(_differences(report))
    for version in report.versions:
        parts += [_labels(version), _errors(version)]
    if report.versions and report.versions[0].robustness:
        parts.append(_robustness(report))
    if report.versions:
        parts.append(_calibration(report))
    return "\n\n".join([*parts, f"Reprint it with `{report.command}`."]) + "\n"


def _versions(report: Report) -> str:
    names = [corpus.name for corpus in report.corpora]
    rows = [
        [
            version.name,
            _interval(version.average),
            *(_interval(version.corpora[name].all.f1) for name in names),
            *_speed(version.speed),
        ]
        for version in report.versions
    ]
    if report.torch:
        nothing = [""] * (1 + len(names))
        rows.append([f"{report.torch.name}, in PyTorch", *nothing, *_speed(report.torch)])
    measured = ["parameters", "MB", "sub-tokens/s", "ms a sentence"]
    return _table("Versions", ["version", "average F1", *names, *measured], rows)


def _differences(report: Report) -> str:
    names = [corpus.name for corpus in report.corpora]
    rows = [
        [
            version.name,
            _difference(version.difference.average),
            *(_difference(version.difference.corpora[name]) for name in names),
        ]
        for version in report.versions
        if version.difference
    ]
    title = f"Difference to {report.versions[0].name}, in points of F1 (* the interval excludes zero)"
    return _table(title, ["version", "average", *names], rows)


def _labels(version: VersionFindings) -> str:
    rows = [
        [
            name,
            label,
            _interval(scores.precision),
            _interval(scores.recall),
            _interval(scores.f1),
            str(scores.support),
        ]
        for name, corpus in version.corpora.items()
        for label, scores in {"all": corpus.all, **corpus.labels}.items()
    ]
    head = ["corpus", "label", "precision", "recall", "F1", "entities"]
    return _table(f"{version.name} by label", head, rows)


def _errors(version: VersionFindings) -> str:
    kinds = list(next(iter(version.corpora.values())).errors.counts)
    rows = [
        [
            name,
            *(str(corpus.errors.total(kind)) for kind in kinds),
            *(f"{one.value:.1f} of {one.meant}" for one in (corpus.errors.seen, corpus.errors.unseen)),
        ]
        for name, corpus in version.corpora.items()
    ]
    title = f"{version.name}: kinds of errors, and recall of mentions that training showed"
    return _table(title, ["corpus", *kinds, "seen", "unseen"], rows)


def _robustness(report: Report) -> str:
    rows = [
        [kind, *(f"{version.robustness[kind].average:.1f}" for version in report.versions)]
        for kind in report.versions[0].robustness
    ]
    head = ["perturbation", *(version.name for version in report.versions)]
    return _table("Average F1 after each perturbation", head, rows)


def _calibration(report: Report) -> str:
    rows = [[version.name, f"{version.calibration.ece:.1f}"] for version in report.versions]
    return _table("Expected calibration error on the test files, in percent", ["version", "ECE"], rows)


def _table(title: str, head: Row, rows: Sequence[Row]) -> str:
    marks = ["---", *["---:"] * (len(head) - 1)]
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, marks, *rows)]
    return "\n".join([f"### {title}", "", *(f"| {line} |" for line in lines)])


def _speed(speed: Speed) -> list[str]:
    return [
        f"{speed.parameters:,}",
        f"{speed.bytes / 1e6:.1f}",
        f"{speed.tokens_per_second:,.0f}",
        f"{speed.milliseconds_per_sentence:.2f}",
    ]


def _interval(one: Interval) -> str:
    return f"{one.value:.2f} [{one.low:.1f}, {one.high:.1f}]"


def _difference(one: Difference) -> str:
    mark = " *" if one.low > 0 or one.high < 0 else ""
    p = f"p = {one.p_value:.3f}" if one.p_value >= 0.001 else "p < 0.001"
    return f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}], {p}{mark}"
