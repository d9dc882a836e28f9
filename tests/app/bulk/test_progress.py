"""How far a run has come, on a clock that the test turns."""

import io
import sys
import time
from dataclasses import dataclass

import pytest

from app.bulk.progress import Meter


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_the_rate_is_of_this_process_alone(clock: Clock) -> None:
    with Meter(total=1_000, begun=500) as meter:
        clock.now += 2
        meter.advance(records=100, sum_of_records=600, done=600)
        assert meter.rate == 50


def test_a_line_is_written_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Meter(total=8_000, begun=0) as meter:
        said = []
        for seconds in (9, 1, 9, 1):
            clock.now += seconds
            meter.advance(records=1_000, sum_of_records=5_000, done=2_000)
            said.append(capsys.readouterr().err)
    assert said == [
        "",
        "nerve: 5,000 records, 200 a second, 25 % of the input\n",
        "",
        "nerve: 5,000 records, 200 a second, 25 % of the input\n",
    ]


def test_no_share_is_told_of_an_input_without_an_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Meter(total=None, begun=0) as meter:
        clock.now += 10
        meter.advance(records=20, sum_of_records=20, done=9)
    assert capsys.readouterr().err == "nerve: 20 records, 2 a second\n"


def test_a_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Meter(total=8_000, begun=0) as meter:
        clock.now += 1
        meter.advance(records=1_000, sum_of_records=5_000, done=2_000)
        shown = sys.stderr.getvalue()
    assert "5,000 records, 1,000 a second" in shown
    assert "25%" in shown
    assert "nerve: " not in shown
