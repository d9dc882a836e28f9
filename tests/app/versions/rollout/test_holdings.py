"""What a process has loaded of `ner-en`, on real folders: each change by itself, without a plan."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import InferenceFailed, NotFound, VersionRefused
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.options import LoadOptions
from app.versions.loading.outcomes import Checker
from app.versions.rollout.desired import AbortRule, Canary, Shadow
from app.versions.rollout.holdings import Holdings
from app.versions.rollout.plan import Loaded
from app.versions.rollout.steps import Load, Renew
from app.versions.storage.repository import Repository
from tests.servers import until
from tests.tiny import POISON, edit_manifest, write_tiny_version

NAME = "ner-en"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def holdings(models_dir: Path, metrics: Metrics) -> Iterator[Holdings]:
    """Nothing yet, of a folder with the versions 1, 2 and 3."""
    for version in (2, 3):
        write_tiny_version(models_dir, version=version)
    checker = Checker(Repository(models_dir), LoadOptions(threads=1), metrics)
    made = Holdings(checker, metrics, max_pinned=1)
    yield made
    made.close()


def total(metrics: Metrics, name: str, **labels: str) -> float:
    return sum(sample.value for sample in metrics.samples(name, **labels))


def held(holdings: Holdings, version: int | None = None) -> LoadedVersion:
    loaded = holdings.registry.get(NAME, version)
    assert loaded
    return loaded


def serve(holdings: Holdings, version: int) -> LoadedVersion:
    holdings.load(NAME, Load(version))
    holdings.serve(NAME, version)
    return held(holdings)


def break_down(loaded: LoadedVersion) -> None:
    """Let three batches in a row fail."""
    for _ in range(3):
        with pytest.raises(InferenceFailed):
            loaded.model.predict([POISON])


# loading


def test_nothing_is_loaded_at_first(holdings: Holdings) -> None:
    assert holdings.loaded(NAME) == Loaded()


def test_what_is_loaded_has_no_role_until_it_is_given_one(holdings: Holdings, metrics: Metrics) -> None:
    holdings.load(NAME, Load(1))
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1}))
    assert total(metrics, "nerve_model_info", version="1") == 1
    holdings.serve(NAME, 1)
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1}), stable=1)
    assert total(metrics, "nerve_model_swap_total", outcome="swapped") == 1


def test_what_cannot_be_loaded_changes_nothing(
    holdings: Holdings, models_dir: Path, metrics: Metrics
) -> None:
    serve(holdings, 1)
    before = holdings.loaded(NAME)
    edit_manifest(models_dir / NAME / "2", format_version=9)
    for background in (False, True):
        with pytest.raises(VersionRefused, match="format_version 9"):
            holdings.load(NAME, Load(2, background))
        with pytest.raises(NotFound):
            holdings.load(NAME, Load(9, background))
    assert holdings.loaded(NAME) == before
    assert total(metrics, "nerve_model_info", version="2") == 0


def test_a_pinned_version_makes_room_for_the_next(holdings: Holdings) -> None:
    holdings.pin(NAME, 1)
    first = held(holdings, 1)
    holdings.pin(NAME, 2)
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({2}), pinned=frozenset({2}))
    assert not first.model.alive


# canaries and shadows


def test_a_canary_is_told_with_its_verdict(holdings: Holdings) -> None:
    serve(holdings, 1)
    holdings.load(NAME, Load(2))
    canary = Canary(version=2, percent=5, abort=AbortRule(requests=10, errors=1))
    holdings.set_canary(NAME, canary)
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1, 2}), stable=1, canary=canary)
    tryout = holdings.registry.tryout(NAME)
    assert tryout
    assert tryout.watch
    for _ in range(10):
        tryout.watch.record(True, 0.1, True)
    assert (holdings.loaded(NAME).verdict or "").startswith("errors: 10 of its last 10")
    holdings.end_canary(NAME)
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1, 2}), stable=1)


def test_a_canary_without_a_rule_is_not_watched(holdings: Holdings) -> None:
    holdings.load(NAME, Load(2))
    holdings.set_canary(NAME, Canary(version=2, percent=5))
    tryout = holdings.registry.tryout(NAME)
    assert tryout
    assert tryout.watch is None


def test_a_shadow_is_loaded_beside_what_answers_and_closed_at_its_end(
    holdings: Holdings, metrics: Metrics
) -> None:
    serve(holdings, 1)
    holdings.load(NAME, Load(1, background=True))
    holdings.set_shadow(NAME, Shadow(version=1, percent=10))
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1}), stable=1, shadows={1: 10})
    assert total(metrics, "nerve_model_info", version="1") == 2
    holdings.end_shadow(NAME, 1)
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1}), stable=1)
    until(lambda: total(metrics, "nerve_model_info", version="1") == 1)
    assert held(holdings).model.alive


# what fails


def test_what_fails_is_failing_until_that_is_dealt_with_and_then_spent(
    holdings: Holdings, metrics: Metrics
) -> None:
    break_down(serve(holdings, 1))
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1}), stable=1, failing=frozenset({1}))
    holdings.fail(NAME, 1, counted=True)
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1}), stable=1, spent=frozenset({1}))
    assert total(metrics, "nerve_model_taken_out_total", version="1") == 1


@pytest.mark.parametrize("counted", [True, False])
def test_a_renewed_version_is_counted_once(holdings: Holdings, metrics: Metrics, counted: bool) -> None:
    before = serve(holdings, 1)
    break_down(before)
    holdings.fail(NAME, 1, counted)
    holdings.renew(NAME, Renew(1))
    assert held(holdings) is not before
    assert not before.model.alive
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1}), stable=1)
    assert total(metrics, "nerve_model_taken_out_total", version="1") == 1


def test_a_session_that_cannot_be_renewed_is_not_tried_again(holdings: Holdings, models_dir: Path) -> None:
    before = serve(holdings, 1)
    break_down(before)
    holdings.fail(NAME, 1, counted=False)
    edit_manifest(models_dir / NAME / "1", format_version=9)
    with pytest.raises(VersionRefused):
        holdings.renew(NAME, Renew(1))
    assert holdings.loaded(NAME) == Loaded(versions=frozenset({1}), stable=1)
    assert held(holdings) is before


def test_a_pinned_version_that_fails_is_pinned_no_longer(holdings: Holdings) -> None:
    holdings.pin(NAME, 2)
    break_down(held(holdings, 2))
    holdings.fail(NAME, 2, counted=False)
    assert holdings.loaded(NAME).pinned == frozenset()


def test_a_shadow_that_fails_is_told_apart_from_the_same_version_that_answers(holdings: Holdings) -> None:
    serve(holdings, 1)
    holdings.load(NAME, Load(1, background=True))
    break_down(holdings.shadows[NAME][1].loaded)
    assert holdings.loaded(NAME).failing == frozenset({1})
    holdings.fail(NAME, 1, counted=True)
    assert not held(holdings).model.failing
    assert holdings.loaded(NAME).spent == frozenset()


# the end


def test_closing_closes_everything(holdings: Holdings, metrics: Metrics) -> None:
    answering = [serve(holdings, 1)]
    holdings.pin(NAME, 2)
    answering.append(held(holdings, 2))
    holdings.load(NAME, Load(3, background=True))
    shadow = holdings.shadows[NAME][3].loaded
    holdings.close()
    assert [loaded.model.alive for loaded in (*answering, shadow)] == [False] * 3
    assert total(metrics, "nerve_model_info") == 0
