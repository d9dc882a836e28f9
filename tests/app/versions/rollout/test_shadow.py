"""The runner of a shadow, with two real versions that differ in what IBM is to them."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.registry import Collector

from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import load_version
from app.versions.rollout import shadow
from app.versions.rollout.shadow import Comparison, ShadowRunner, comparison
from tests.servers import until
from tests.tiny import POISON, write_tiny_version


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two versions to which IBM is an `ORG`, and one between to which it is a `LOC`."""
    folder = tmp_path_factory.mktemp("models")
    for version, ibm in ((1, "ORG"), (2, "LOC"), (3, "ORG")):
        write_tiny_version(folder, version=version, ibm=ibm)
    return folder / "ner-en"


@pytest.fixture(scope="module")
def stable(models: Path) -> Iterator[LoadedVersion]:
    loaded = load_version(models / "1")
    yield loaded
    loaded.close()


class Shadowed:
    """A runner of version 2, with what it asks and tells.

    Attributes:
        quiet: whether the stable version is idle.
        asked: how often the runner wanted to know.
        closed: what it has closed.
    """

    def __init__(self, models: Path, percent: float = 100):
        self.metrics = Metrics()
        self.quiet = threading.Event()
        self.quiet.set()
        self.asked = 0
        self.closed: list[LoadedVersion] = []
        self.loaded = load_version(models / "2")
        self.runner = ShadowRunner(self.loaded, percent, self.idle, self.metrics, self.close)

    def idle(self) -> bool:
        self.asked += 1
        return self.quiet.is_set()

    def close(self, loaded: LoadedVersion) -> None:
        loaded.close()
        self.closed.append(loaded)

    def offer(self, stable: LoadedVersion, *texts: str) -> None:
        """Copies of texts, with the stable version's answers, but of those it fails on."""
        answers = stable.model.predict(["" if text == POISON else text for text in texts])
        self.runner.offer(texts, answers, stable)

    def compared(self, stable: int | None = 1) -> Comparison:
        return comparison(self.metrics, "ner-en", 2, stable)

    def dropped(self, reason: str) -> int:
        samples = self.metrics.samples("nerve_shadow_dropped_total", model="ner-en", reason=reason)
        return int(sum(sample.value for sample in samples))


@pytest.fixture
def shadowed(models: Path) -> Iterator[Shadowed]:
    running = Shadowed(models)
    yield running
    running.runner.close(wait=True)


def ran(shadowed: Shadowed, texts: int, stable: int = 1) -> Comparison:
    until(lambda: shadowed.compared(stable).texts == texts)
    return shadowed.compared(stable)


def test_labels_that_only_one_of_them_finds_count(shadowed: Shadowed, stable: LoadedVersion) -> None:
    shadowed.offer(stable, "Angela Merkel", "IBM", "Nothing here.")
    compared = ran(shadowed, 3)
    assert (compared.same, compared.same_spans, compared.dropped) == (2, 3, 0)
    assert compared.f1_by_label == {"LOC": 0, "ORG": 0, "PER": 1}
    assert compared.f1 == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))


def test_what_nobody_finds_is_agreed_on(shadowed: Shadowed, stable: LoadedVersion) -> None:
    shadowed.offer(stable, "Nothing here.")
    compared = ran(shadowed, 1)
    assert (compared.same, compared.f1, compared.f1_by_label) == (1, 1, {})


def test_each_stable_version_is_compared_with_for_itself(
    shadowed: Shadowed, stable: LoadedVersion, models: Path
) -> None:
    other = load_version(models / "3")
    shadowed.offer(stable, "IBM")
    shadowed.offer(other, "Angela Merkel", "Angela Merkel")
    other.close()
    assert ran(shadowed, 2, stable=3).f1_by_label == {"PER": 1}
    assert shadowed.compared(stable=1).f1_by_label == {"LOC": 0, "ORG": 0}
    assert (shadowed.compared(stable=9).texts, shadowed.compared(stable=None).texts) == (0, 0)


def test_the_metrics_are_read_once(shadowed: Shadowed, stable: LoadedVersion) -> None:
    readings = []

    class Counted(Collector):
        def collect(self) -> Iterable[Metric]:
            readings.append(self)
            return ()

    shadowed.offer(stable, "Angela Merkel", "IBM", "New York")
    ran(shadowed, 3)
    shadowed.metrics.registry.register(Counted())
    readings.clear()
    assert len(shadowed.compared().f1_by_label) == 3
    assert len(readings) == 1


def test_a_share_of_nothing_is_nothing(models: Path, stable: LoadedVersion) -> None:
    none = Shadowed(models, percent=0)
    none.offer(stable, *["IBM"] * 100)
    none.runner.percent = 100
    none.offer(stable, "IBM")
    assert ran(none, 1).dropped == 0
    none.runner.close(wait=True)


def test_copies_wait_until_what_is_stable_now_is_idle(shadowed: Shadowed, stable: LoadedVersion) -> None:
    shadowed.quiet.clear()
    shadowed.offer(stable, "IBM")
    until(lambda: shadowed.asked > 3)
    assert stable.model.idle  # which answered, and is not asked
    assert shadowed.compared().texts == 0
    shadowed.quiet.set()
    assert ran(shadowed, 1).dropped == 0


def test_copies_that_wait_for_too_long_are_dropped(
    shadowed: Shadowed, stable: LoadedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "_PATIENCE", 0.1)
    shadowed.quiet.clear()
    shadowed.offer(stable, "IBM", "IBM")
    until(lambda: shadowed.dropped("busy") == 2)
    assert (shadowed.compared().texts, shadowed.compared().dropped) == (0, 2)


def test_copies_that_find_no_room_are_dropped(shadowed: Shadowed, stable: LoadedVersion) -> None:
    shadowed.quiet.clear()
    shadowed.offer(stable, *["IBM"] * 300)
    full = shadowed.dropped("full")
    assert full in (300 - 256, 300 - 257)  # one may be in the runner's hand
    shadowed.quiet.set()
    assert ran(shadowed, 300 - full).dropped == full


def messages(records: Sequence[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records if "in the shadow" in record.getMessage()]


def test_a_text_that_fails_is_counted_and_the_next_one_runs(
    shadowed: Shadowed, stable: LoadedVersion, caplog: pytest.LogCaptureFixture
) -> None:
    shadowed.offer(stable, POISON, POISON, "IBM")
    compared = ran(shadowed, 1)
    assert (compared.dropped, shadowed.dropped("failed")) == (2, 2)
    (logged,) = messages(caplog.records)
    assert logged.startswith("ner-en/2 in the shadow: the session failed on a batch")


def test_no_error_ends_the_runner(
    models: Path, stable: LoadedVersion, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, errors = Metrics(), ["one", "one", "two"]

    def idle() -> bool:
        if errors:
            raise RuntimeError(errors.pop(0))
        return True

    runner = ShadowRunner(load_version(models / "2"), 100, idle, metrics, LoadedVersion.close)
    runner.offer(["IBM"] * 4, stable.model.predict(["IBM"] * 4), stable)
    until(lambda: comparison(metrics, "ner-en", 2, 1).texts == 1)
    assert comparison(metrics, "ner-en", 2, 1).dropped == 3
    assert [line.partition(": ")[2] for line in messages(caplog.records)] == [
        "RuntimeError('one')",
        "RuntimeError('two')",
    ]
    runner.close(wait=True)


def test_closing_waits_for_nobody_unless_it_is_told_to(models: Path, stable: LoadedVersion) -> None:
    gate, closed = threading.Event(), []

    def close(loaded: LoadedVersion) -> None:
        gate.wait(20)
        loaded.close()
        closed.append(loaded)

    loaded = load_version(models / "2")
    runner = ShadowRunner(loaded, 100, lambda: True, Metrics(), close)
    runner.close()
    assert loaded.model.alive
    assert closed == []
    gate.set()
    runner.close(wait=True)
    assert closed == [loaded]
    assert not loaded.model.alive


def test_copies_that_wait_at_the_end_keep_nobody(shadowed: Shadowed, stable: LoadedVersion) -> None:
    shadowed.quiet.clear()
    shadowed.offer(stable, *["IBM"] * 300)
    until(lambda: shadowed.asked)
    shadowed.runner.close(wait=True)
    assert shadowed.closed == [shadowed.loaded]
    assert (shadowed.compared().texts, shadowed.dropped("busy")) == (0, 0)
