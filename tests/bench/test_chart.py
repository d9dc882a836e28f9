import json
from typing import Any

from tests.bench.chart import chart
from tests.markdown import read

FIGURES: dict[str, Any] = {
    "machine": "two cores",
    "texts": "2 texts",
    "turns": 3,
    "servers": {
        "A peer, by <hand>": {"clients": {"64": {"rate": 50, "p99_ms": 800}}},
        "Nerve": {"clients": {"1": {"p50_ms": 5.52}, "64": {"rate": 100, "p99_ms": 200}}},
    },
}


def test_the_first_pages_chart_is_drawn_from_the_figures_beside_it() -> None:
    assert chart(json.loads(read("docs/figures/peers.json"))) == read("docs/images/speed.svg")


def test_the_fastest_server_stands_first() -> None:
    drawn = chart(FIGURES)
    assert drawn.index(">Nerve<") < drawn.index(">A peer, by &lt;hand&gt;<")


def test_what_was_not_measured_has_no_bar() -> None:
    drawn = chart(FIGURES)
    assert drawn.count('class="bar"') == 2
    assert drawn.count('class="best"') == 3
    assert drawn.count(">not measured<") == 1
