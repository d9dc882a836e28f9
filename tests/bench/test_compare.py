from pathlib import Path

from tests.bench.chart import chart
from tests.bench.compare import CASES, Measured, figures
from tests.bench.report import Options
from tests.bench.throughput import Turn


def test_figures_are_medians_that_the_chart_can_draw() -> None:
    options = Options(Path("models"), "ner-en", None, 1, ("One text of five words.",), 4.0, 5)
    measured = Measured(
        {case: [Turn(rate, 2.0, 9.0, 0.1) for rate in (10.0, 30.0, 20.0)] for case in CASES}
    )
    made = figures(options, {"Nerve": measured}, 3)
    assert made["servers"]["Nerve"]["clients"]["64"] == {"rate": 20.0, "p50_ms": 2.0, "p99_ms": 9.0}
    assert made["texts"] == "1 texts of 5.0 words on average"
    assert ">not measured<" not in chart(made)
