import threading
from contextlib import ExitStack

from app.versions.rollout.turns import Turns
from tests.servers import until


def started(turns: Turns, go: threading.Event) -> threading.Event:
    """Have a thread take a turn, until `go`; return the event of its beginning."""
    begun = threading.Event()

    def run() -> None:
        with turns.turn():
            begun.set()
            go.wait()

    threading.Thread(target=run, daemon=True).start()
    return begun


def test_few_begin_at_a_time_and_the_next_when_one_ends() -> None:
    turns, first, second = Turns(beginning=1, seconds=300, most=9), threading.Event(), threading.Event()
    assert started(turns, first).wait(60)
    waits = started(turns, second)
    assert not waits.wait(0.05)
    first.set()
    assert waits.wait(60)
    second.set()


def test_one_that_takes_long_lets_the_next_begin() -> None:
    turns, go = Turns(beginning=1, seconds=0.05, most=2), threading.Event()
    assert all(started(turns, go).wait(60) for _ in range(2))
    third = started(turns, go)
    assert not third.wait(0.2)  # so many may not run at a time
    go.set()
    assert third.wait(60)


def test_at_the_end_nobody_waits() -> None:
    turns, go = Turns(beginning=1, seconds=300, most=1), threading.Event()
    assert started(turns, go).wait(60)
    waits = started(turns, go)
    turns.end()
    assert waits.wait(60)
    go.set()


def test_a_turn_ends_with_its_block_however_it_ends() -> None:
    turns = Turns(beginning=1, seconds=300, most=1)
    for _ in range(2):
        try:
            with turns.turn():
                raise OSError
        except OSError:
            pass
    with ExitStack() as stack:
        stack.enter_context(turns.turn())
    until(lambda: not turns._begun)
