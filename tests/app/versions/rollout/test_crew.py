import threading
from collections.abc import Iterator

import pytest

from app.versions.rollout.crew import Crew, aside


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """Lets what waits for it end; so it does at the end."""
    event = threading.Event()
    yield event
    event.set()


def test_work_is_done_for_each_key_once_at_a_time(go: threading.Event) -> None:
    crew, done = Crew("mine", 4), list[str]()
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        go.wait()
        done.append("slow")

    crew.give("a", slow)
    assert begun.wait(60)
    crew.give("a", lambda: done.append("again"))  # what is being done is not given again
    crew.give("b", lambda: done.append("b"))
    assert not crew.join(0.05)
    assert done == ["b"]
    go.set()
    assert crew.join(60)
    crew.give("a", lambda: done.append("later"))
    assert crew.join(60)
    assert done == ["b", "slow", "later"]


def test_threads_start_as_they_are_needed_and_serve_again(go: threading.Event) -> None:
    crew, names = Crew("mine", 2), set[str]()
    for key in range(20):
        crew.give(key, lambda: names.add(threading.current_thread().name))
        assert crew.join(60)
    assert names == {"mine-1"}
    for key in "ab":
        crew.give(key, go.wait)
    crew.give("c", lambda: names.add("done"))
    assert not crew.join(0.05)
    assert "done" not in names
    go.set()
    assert crew.join(60)


def test_work_that_fails_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    crew, done = Crew("mine", 1), list[int]()

    def fail() -> None:
        raise OSError("no disk")

    crew.give("a", fail)
    crew.give("b", lambda: done.append(1))
    assert crew.join(60)
    assert done == [1]
    assert "no disk" in caplog.text


def test_closing_drops_what_waits_and_leaves_behind_what_does_not_end(
    go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    crew, done, begun = Crew("mine", 1), list[int](), threading.Event()

    def endless() -> None:
        begun.set()
        go.wait()

    crew.give("a", endless)
    crew.give("b", lambda: done.append(1))
    assert begun.wait(60)
    crew.close(0.05)
    assert "mine: left behind, for it does not end: a" in caplog.text
    crew.give("c", lambda: done.append(2))
    go.set()
    assert not done


def test_what_is_done_aside_returns_or_raises() -> None:
    assert aside(lambda: 7).result(60) == 7
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0).result(60)
