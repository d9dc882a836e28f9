"""`python -m tests.bench.chart FIGURES.json -o CHART.svg`: Nerve beside the peers, as one picture.

`python -m tests.bench peers --json FIGURES.json` writes the figures. The picture has colours for a light
and for a dark page, and a ground of its own, so that it is readable on both.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH = 960
NAMES = 324
"""Pixels that the names of the servers take, on the left."""

GAP = 26
LINE = 30
BAR = 16
TOP = 62
FIGURE = 46
"""Pixels kept free for the figure at the end of a bar."""

OURS = "Nerve"

STYLE = """
  .ground { fill: #ffffff; stroke: #d0d7de; }
  text { font: 12px -apple-system, "Segoe UI", "DejaVu Sans", Helvetica, Arial, sans-serif; fill: #57606a; }
  .title { font-weight: 600; font-size: 13px; fill: #1f2328; }
  .ours { font-weight: 600; fill: #0a7a55; }
  .bar { fill: #c3ccd6; }
  .best { fill: #12a150; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; stroke: #30363d; }
    text { fill: #9ba5b0; }
    .title { fill: #e6edf3; }
    .ours { fill: #56d39b; }
    .bar { fill: #3d4753; }
    .best { fill: #2ea36b; }
  }
"""


@dataclass(frozen=True)
class Panel:
    """One column of bars.

    Attributes:
        clients, value: which figure of the file it shows.
    """

    title: str
    note: str
    clients: str
    value: str

    def of(self, server: Mapping[str, Any]) -> float | None:
        """The figure of a server; None where it was not measured."""
        found: float | None = server["clients"].get(self.clients, {}).get(self.value)
        return found


PANELS = (
    Panel("Sentences a second", "64 clients; more is better", "64", "rate"),
    Panel("p99 latency, ms", "64 clients; less is better", "64", "p99_ms"),
    Panel("Median latency, ms", "1 client; less is better", "1", "p50_ms"),
)


def chart(figures: Mapping[str, Any]) -> str:
    """The picture, as SVG: a line for each server, the fastest first."""
    servers = dict(
        sorted(figures["servers"].items(), key=lambda item: PANELS[0].of(item[1]) or 0.0, reverse=True)
    )
    height = TOP + LINE * len(servers) + 38
    width = (WIDTH - NAMES - GAP * len(PANELS)) / len(PANELS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(_alternative(servers))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
    ]
    for row, name in enumerate(servers):
        kind = ' class="ours"' if name == OURS else ""
        parts.append(f'<text{kind} x="{NAMES}" y="{_middle(row)}" text-anchor="end">{escape(name)}</text>')
    for column, panel in enumerate(PANELS):
        left = NAMES + GAP / 2 + column * (width + GAP)
        parts.append(f'<text class="title" x="{left:.0f}" y="26">{escape(panel.title)}</text>')
        parts.append(f'<text x="{left:.0f}" y="43">{escape(panel.note)}</text>')
        parts += _bars(panel, servers, left, width)
    told = f"{figures['machine']}; {figures['texts']}; medians of {figures['turns']} turns"
    parts.append(f'<text x="{WIDTH - 16}" y="{height - 14}" text-anchor="end">{escape(told)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _bars(panel: Panel, servers: Mapping[str, Any], left: float, width: float) -> list[str]:
    values = {name: panel.of(server) for name, server in servers.items()}
    most = max((value for value in values.values() if value is not None), default=1.0)
    parts = []
    for row, (name, value) in enumerate(values.items()):
        length = 0.0 if value is None else max(2.0, (width - FIGURE) * value / most)
        kind = "best" if name == OURS else "bar"
        if value is not None:
            parts.append(
                f'<rect class="{kind}" x="{left:.0f}" y="{_middle(row) - 4 - BAR / 2:.0f}" '
                f'width="{length:.1f}" height="{BAR}" rx="2"/>'
            )
        figure = "not measured" if value is None else f"{value:,.1f}" if value < 20 else f"{value:,.0f}"
        ours = ' class="ours"' if name == OURS else ""
        parts.append(f'<text{ours} x="{left + length + 6:.0f}" y="{_middle(row)}">{figure}</text>')
    return parts


def _middle(row: int) -> int:
    """Where the foot of a line's letters stands."""
    return TOP + LINE * row + 20


def _alternative(servers: Mapping[str, Any]) -> str:
    """What the picture says, for those who cannot see it."""
    said = [f"{name} {value:,.0f}" for name, server in servers.items() if (value := PANELS[0].of(server))]
    return f"Sentences a second with 64 clients: {'; '.join(said)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.chart", description=__doc__)
    parser.add_argument("figures", type=Path, help="what `python -m tests.bench peers --json` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the SVG file to write")
    arguments = parser.parse_args()
    figures = json.loads(arguments.figures.read_text(encoding="utf-8"))
    arguments.output.write_text(chart(figures), encoding="utf-8")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
