"""Signals that end a run: real ones, raised in this process."""

import signal

import pytest

from app.bulk.errors import Stopped
from app.bulk.signals import Stop

NUMBERS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def wait(stop: Stop, number: int, done: list[str], again: int | None = None) -> None:
    """Wait until a signal comes; perhaps another comes while what was done is made safe."""
    with stop.waiting():
        try:
            signal.raise_signal(number)
            done.append("more work")
        finally:
            if again is not None:
                signal.raise_signal(again)
            done.append("checkpoint")


@NUMBERS
def test_a_signal_ends_a_wait_at_once(number: signal.Signals) -> None:
    done: list[str] = []
    with Stop() as stop, pytest.raises(Stopped) as stopped:
        wait(stop, number, done)
    assert stopped.value.number == number
    assert done == ["checkpoint"]


@NUMBERS
def test_work_that_loses_something_is_finished_and_the_next_wait_does_not_begin(
    number: signal.Signals,
) -> None:
    done = []
    with Stop() as stop:
        signal.raise_signal(number)
        done.append("work")
        with pytest.raises(Stopped) as stopped, stop.waiting():
            done.append("wait")
    assert stopped.value.number == number
    assert done == ["work"]


def test_a_second_signal_does_not_disturb_what_the_first_one_ends() -> None:
    done: list[str] = []
    with Stop() as stop, pytest.raises(Stopped) as stopped:
        wait(stop, signal.SIGTERM, done, again=signal.SIGINT)
    assert stopped.value.number == signal.SIGTERM
    assert done == ["checkpoint"]


def test_signals_mean_afterwards_what_they_meant_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
