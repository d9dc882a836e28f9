import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest

from training.evaluation.benchmark import Speed
from training.evaluation.calibration import Reliability
from training.evaluation.errors import Confusion
from training.evaluation.plots import (
    PALETTE,
    Point,
    confusion_map,
    learning_curve,
    pareto,
    reliability_diagram,
    robustness_bars,
    training_curves,
)
from training.evaluation.runs import LearningCurve
from training.evaluation.significance import Interval
from training.progress import Epoch

EPOCHS = [Epoch(number, 1 / number, {}, 60 + number) for number in (1, 2, 3)]


def curve(confidence: Sequence[float], accuracy: Sequence[float], counts: Sequence[int]) -> Reliability:
    return Reliability((), tuple(confidence), tuple(accuracy), tuple(counts), 0.0)


CURVE = curve([0.0, 0.5, 0.9], [0.0, 0.4, 0.8], [0, 10, 90])


def point(name: str, f1: tuple[float, float, float], milliseconds: float, size: int) -> Point:
    return Point(name, Interval(*f1), Speed(name, "int8", "onnxruntime", 1, size, size, 1.0, milliseconds))


def _confusion() -> str:
    return confusion_map("who is who", Confusion(("PER", "none"), np.array([[1234, 2], [3, 0]])))


def _robustness() -> str:
    return robustness_bars(
        {"ner-en/1": {"lower": 61.5, "typos": 55}, "ner-en/2": {"lower": 64, "typos": 51}}
    )


def _reliability() -> str:
    return reliability_diagram({"ner-en/1": CURVE, "ner-en/2": CURVE})


def _learning() -> str:
    recorded = {"sizes": [100, 1000], "alone": [40, 60], "distilled": [55, 66]}
    interval = {"alone_low": [38, 59], "alone_high": [42, 61]}
    return learning_curve("more texts", LearningCurve(recorded | interval))


def _pareto() -> str:
    return pareto(
        [
            point("ner-en/1", (70.6, 69.8, 71.4), 5.0, 23_700_000),
            point("<tiny>&1", (66, 65, 67), 1, 9_000),
        ]
    )


def _training() -> str:
    return training_curves("epochs", {"teacher/seed-1": EPOCHS, "student": EPOCHS})


PLOTS = (_confusion, _robustness, _reliability, _learning, _pareto, _training)


@pytest.fixture(scope="module")
def svgs() -> list[str]:
    return [plot() for plot in PLOTS]


@pytest.fixture(params=range(len(PLOTS)), ids=[plot.__name__.strip("_") for plot in PLOTS])
def svg(request: pytest.FixtureRequest, svgs: list[str]) -> str:
    return svgs[request.param]


def test_a_plot_is_one_element_that_loads_nothing(svg: str) -> None:
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert "http" not in svg
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', svg))


def test_a_plot_takes_the_colours_of_its_page(svg: str) -> None:
    assert "currentColor" in svg
    assert "var(--series-1, " in svg
    bare = re.sub(r"var\(--series-\d, #\w+\)", "", svg)
    assert not [colour for colour in PALETTE if colour in bare]
    assert not re.search(r"(fill|stroke): ?(#000000|black)", bare)


def test_a_plot_is_the_same_every_time(svgs: list[str]) -> None:
    assert _confusion() == svgs[0]


def test_plots_of_one_page_differ_by_their_titles() -> None:
    counts = np.eye(2, dtype=np.int64)
    pair = [confusion_map(title, Confusion(("A", "none"), counts)) for title in ("one", "<two>")]
    assert pair[0] != pair[1]
    assert 'aria-label="&lt;two&gt;"' in pair[1]


def test_names_within_plots_do_not_clash(svgs: list[str]) -> None:
    names = [name for svg in svgs for name in set(re.findall(r' id="([^"]*)"', svg))]
    assert len(names) == len(set(names)) > 0
    for svg in svgs:
        own = re.findall(r' id="([^"]*)"', svg)
        assert len(own) == len(set(own))
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= set(own)


def test_letters_stay_letters(svgs: list[str]) -> None:
    confusion, robustness, bubbles = svgs[0], svgs[1], svgs[4]
    for text in ("PER", "none", "meant", "found", "1,234"):
        assert f">{text}</text>" in confusion
    assert "&lt;tiny&gt;&amp;1, 9.0 kB</text>" in bubbles
    assert ">61.5</text>" in robustness


def test_an_empty_row_of_a_confusion_matrix_has_no_share() -> None:
    with np.errstate(all="raise"):
        assert "<svg" in confusion_map("nothing", Confusion(("A", "B"), np.zeros((2, 2), np.int64)))


def test_empty_bins_are_not_drawn() -> None:
    one = curve([0.0, 0.9], [0.0, 0.8], [0, 5])
    nothing = curve([0.0, 0.0], [0.0, 0.0], [0, 0])
    markers = [len(re.findall("<use ", reliability_diagram({"v": drawn}))) for drawn in (one, nothing)]
    assert markers[0] - markers[1] == 2  # one above, one underneath


def test_one_series_needs_no_legend(svgs: list[str]) -> None:
    assert "ner-en/1</text>" not in robustness_bars({"ner-en/1": {"lower": 61.5}})
    assert "ner-en/2</text>" in svgs[1]


def test_a_learning_curve_may_hold_one_line() -> None:
    assert "distilled</text>" not in learning_curve(
        "alone", LearningCurve({"sizes": [10, 20], "alone": [1, 2]})
    )
