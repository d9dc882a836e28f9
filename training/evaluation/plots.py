"""The plots are inline SVG for a page with a light and a dark theme.

Lines and letters take the page's colour (`currentColor`), series the page's `--series-1` … `--series-6`,
which default to the palette of Okabe & Ito (2008) for colour-blind readers. Every series also has a
different marker or hatch, so that a page printed without colours can be read.
"""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from training.evaluation.benchmark import Speed
from training.evaluation.calibration import Reliability
from training.evaluation.errors import Confusion
from training.evaluation.runs import LearningCurve
from training.evaluation.significance import Interval
from training.progress import Epoch

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of the series; a seventh series takes the first colour again."""

MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++")

_INK = "#010203"
"""A placeholder that `_svg` replaces by `currentColor`."""

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "nerve",  # gives the same names of parts in every run
    "svg.fonttype": "none",  # keeps letters as text in the page's font
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "hatch.linewidth": 0.5,
}


@dataclass(frozen=True)
class Point:
    """Is a version in the Pareto plot: its average F1 in percent, its size and its speed."""

    name: str
    f1: Interval
    speed: Speed

    @property
    def milliseconds(self) -> float:
        return self.speed.milliseconds_per_sentence

    @property
    def bytes(self) -> int:
        return self.speed.bytes


def confusion_map(title: str, confusion: Confusion) -> str:
    """Plot meant labels (rows) against found labels (columns), each cell shaded by its share of the row.

    Args:
        title: the text for screen readers.
    """
    names, counts = confusion.names, confusion.counts
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(names)
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
        figure, axes = _figure(0.95 * size + 1.3, 0.5 * size + 0.9)
        for row, column in np.ndindex(size, size):
            share = float(shares[row, column])
            cell = Rectangle(
                (column - 0.47, row - 0.46), 0.94, 0.92, facecolor=PALETTE[0], alpha=0.06 + 0.5 * share
            )
            axes.add_patch(cell)
            axes.text(
                column,
                row,
                f"{counts[row, column]:,}",
                ha="center",
                va="center",
                weight="bold" if share >= 0.5 else "normal",
            )
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="found", ylabel="meant")
        axes.set_xticks(range(size), names)
        axes.set_yticks(range(size), names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return _svg(figure, title)


def robustness_bars(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Plot the average F1 of each version (outer key) after each perturbation (inner key) as bars."""
    kinds = list(next(iter(scores.values())))
    height = 0.8 / len(scores)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(7.2, max(1.6, 0.9 + len(kinds) * max(0.34, 0.18 * len(scores))))
        for number, (name, row) in enumerate(scores.items()):
            places = np.arange(len(kinds)) + (number - (len(scores) - 1) / 2) * height
            bars = axes.barh(
                places,
                [row[kind] for kind in kinds],
                height * 0.9,
                label=name,
                color=_colour(number),
                hatch=HATCHES[number % len(HATCHES)],
                edgecolor=_INK,
                linewidth=0,
            )
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axes.set_yticks(range(len(kinds)), kinds)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="average F1", xlim=(0, 108))
        _legend(axes, len(scores))
        return _svg(figure, "F1 after each perturbation")


def reliability_diagram(curves: Mapping[str, Reliability]) -> str:
    """Plot the share of right entities against their score, without empty bins.

    Args:
        curves: reliability by version.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 4.8), layout="constrained")
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        axes.plot([0, 1], [0, 1], color=_INK, alpha=0.4, linewidth=1, linestyle=(0, (4, 3)))
        for number, (name, curve) in enumerate(curves.items()):
            counts = np.asarray(curve.counts, float)
            full = counts > 0
            x, y = np.asarray(curve.confidence)[full], np.asarray(curve.accuracy)[full]
            axes.plot(x, y, marker=_marker(number), color=_colour(number), label=name)
            share = counts[full] / max(1.0, counts.sum())
            below.plot(x, share, marker=_marker(number), markersize=3, color=_colour(number))
        axes.set(ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
        below.set(xlabel="score", ylabel="share")
        below.set_ylim(bottom=0)
        _legend(axes, len(curves))
        return _svg(figure, "Reliability: share of entities that are right against their score")


def learning_curve(title: str, curve: LearningCurve) -> str:
    """Plot F1 against the number of labelled texts."""
    sizes, lines = curve.sizes, curve.lines
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.0, 3.4)
        for number, (name, line) in enumerate(lines.items()):
            axes.plot(sizes, line.f1, marker=_marker(number), color=_colour(number), label=name)
            if line.low is not None and line.high is not None:
                axes.fill_between(
                    sizes, line.low, line.high, color=_colour(number), alpha=0.15, linewidth=0
                )
        axes.set(xlabel="labelled texts", ylabel="average F1", xscale="log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        _legend(axes, len(lines))
        return _svg(figure, title)


def pareto(points: Sequence[Point]) -> str:
    """Plot F1 against latency: bubble areas show file sizes, and a line joins the Pareto front."""
    largest = max(point.bytes for point in points)
    fastest, *_, slowest = sorted(point.milliseconds for point in [*points, *points])
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(7.2, 3.8)
        front = [one for one in points if not any(_beats(other, one) for other in points)]
        front.sort(key=lambda point: point.milliseconds)
        axes.plot(
            [p.milliseconds for p in front],
            [p.f1.value for p in front],
            color=_INK,
            alpha=0.35,
            linewidth=1,
            linestyle=(0, (4, 3)),
            drawstyle="steps-post",
        )
        for number, point in enumerate(points):
            place, colour = ([point.milliseconds], [point.f1.value]), _colour(number)
            error = [
                [max(0.0, point.f1.value - point.f1.low)],
                [max(0.0, point.f1.high - point.f1.value)],
            ]
            axes.errorbar(*place, yerr=error, color=colour, elinewidth=1, capsize=0, alpha=0.7)
            axes.scatter(*place, s=900 * point.bytes / largest, color=colour, alpha=0.35, linewidth=0)
            axes.scatter(*place, s=14, color=colour, marker=_marker(number))
            size = f"{point.bytes / 1e6:.1f} MB" if point.bytes >= 1e5 else f"{point.bytes / 1e3:.1f} kB"
            right = point.milliseconds**2 > slowest * fastest  # names in the right half go to the left
            label = axes.annotate(
                f"{point.name}, {size}",
                (point.milliseconds, point.f1.value),
                xytext=(-9 if right else 9, 7),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=9,
            )
            label.set_in_layout(False)
        axes.set(xlabel="milliseconds a sentence", ylabel="average F1", xscale="log")
        axes.margins(x=0.3, y=0.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return _svg(figure, "F1 against latency")


def training_curves(title: str, stages: Mapping[str, Sequence[Epoch]]) -> str:
    """Plot dev F1 and loss by epoch, one line for each stage."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.0 + 0.16 * len(stages)), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, (name, epochs) in enumerate(stages.items()):
            numbers = [epoch.number for epoch in epochs]
            averages, losses = [epoch.average for epoch in epochs], [epoch.loss for epoch in epochs]
            for axes, values in ((left, averages), (right, losses)):
                axes.plot(
                    numbers,
                    values,
                    marker=_marker(number),
                    color=_colour(number),
                    label=name,
                )
        left.set(xlabel="epoch", ylabel="average dev F1")
        right.set(xlabel="epoch", ylabel="mean loss")
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        return _svg(figure, title)


def _beats(one: Point, other: Point) -> bool:
    as_good = one.f1.value >= other.f1.value and one.milliseconds <= other.milliseconds
    return as_good and (one.f1.value, one.milliseconds) != (other.f1.value, other.milliseconds)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _legend(axes: Axes, series: int) -> None:
    """Put a legend above the plot, where it covers no data, if there is more than one series."""
    if series > 1:
        longest = max(len(name) for name in axes.get_legend_handles_labels()[1])
        columns = max(1, min(series, 60 // (longest + 6)))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2)


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an SVG element with names that no other plot of a page has."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for number, colour in enumerate(PALETTE, 1):
        svg = svg.replace(colour, f"var(--series-{number}, {colour})")
    svg = svg.replace(_INK, "currentColor")

    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(|href=")#([\w.:-]+)', svg))
    for name in sorted(used):
        svg = re.sub(rf'(id="|#){re.escape(name)}(?=["\)])', rf"\g<1>{mark}-{name}", svg)
    svg = re.sub(rf' id="(?!{mark}-)[^"]*"', "", svg)

    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    head = (
        f'<svg class="plot" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}" '
        f'width="{round(float(width) * 4 / 3)}">'
    )
    return re.sub(r"<svg[^>]*>", head, svg, count=1)
