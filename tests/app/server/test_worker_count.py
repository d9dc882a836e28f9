"""How many processes serve where nobody said it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import NotFound
from app.server.worker_count import Demand, choose_workers, free_memory, measure, measure_apart, workers_for
from app.settings import Settings
from tests.servers import serving

SECONDS = st.floats(1e-6, 1.0)
CPUS = st.integers(1, 512)


def test_what_is_said_is_done(tmp_path: Path) -> None:
    assert choose_workers(Settings(models_dir=tmp_path, workers=3)).workers == 3


def test_a_slow_network_is_fed_by_one_process_and_a_fast_one_is_not() -> None:
    slow, fast = Demand(4e-4, 3e-3), Demand(4e-4, 5e-4)
    assert [workers_for(slow, cpus, cpus).workers for cpus in (2, 4, 6, 16, 64)] == [1, 1, 1, 3, 9]
    assert [workers_for(fast, cpus, cpus).workers for cpus in (4, 16)] == [3, 9]
    assert workers_for(fast, 16, 4).workers == 4


@given(SECONDS, SECONDS, CPUS)
def test_there_are_at_least_one_and_at_most_as_many_as_cpus_and_more_for_more(
    interpreter: float, network: float, cpus: int
) -> None:
    demand = Demand(interpreter, network)
    chosen = workers_for(demand, cpus, cpus).workers
    assert 1 <= chosen <= cpus
    assert workers_for(demand, cpus + 1, cpus + 1).workers >= chosen


@given(SECONDS, SECONDS, CPUS, st.integers(0, 10**12), st.integers(1, 10**10))
def test_half_of_the_free_memory_is_enough_for_all_but_the_first(
    interpreter: float, network: float, cpus: int, free: int, each: int
) -> None:
    chosen = workers_for(Demand(interpreter, network, each), cpus, cpus, free).workers
    assert chosen == 1 or chosen * each <= free / 2


def test_what_a_sentence_takes_is_measured(models_dir: Path, tmp_path: Path) -> None:
    demand = measure(Settings(models_dir=models_dir, state_dir=tmp_path, provider="cpu"))
    assert demand.interpreter > 0
    assert demand.network > 0
    assert demand.memory == 0 or demand.memory > 10_000_000


def test_a_version_that_crashes_does_not_keep_a_server_from_starting(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(models_dir=models_dir, state_dir=tmp_path, provider="cpu")
    demand = measure_apart(settings)
    assert demand.network > 0
    monkeypatch.setattr("app.server.worker_count.available_cpus", lambda: 16)
    (tmp_path / "none").mkdir()
    for broken in (
        settings.model_copy(update={"models_dir": tmp_path / "none"}),
        settings.model_copy(update={"load_timeout": 0.01}),
    ):
        choice = choose_workers(broken)
        assert choice.workers == 1
        assert "could not be measured" in choice.reason
    assert choose_workers(settings).workers >= 1


def test_without_a_model_there_is_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        measure(Settings(models_dir=tmp_path, state_dir=tmp_path))


def test_free_memory_is_told_in_bytes() -> None:
    free = free_memory()
    assert free is None or 0 <= free < 1 << 50


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_choice_is_in_the_log_and_in_models(models_dir: Path, tmp_path: Path, workers: int) -> None:
    with serving(models_dir, tmp_path / "log", workers=workers, state_dir=tmp_path) as server:
        chosen = server.client.get("/models").json()["workers"]
        assert chosen >= 1
        assert workers in (0, chosen)
        assert f"processes: {chosen} (" in server.log.read_text()
        assert server.log.read_text().count("processes: ") == 1
