"""The registry, with a loaded version that stands for as many as a test wants."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import load_version
from app.versions.rollout.canary import CanaryWatch, Tryout
from app.versions.rollout.desired import AbortRule, Canary
from app.versions.rollout.registry import Lease, Registry
from tests.servers import until
from tests.tiny import write_tiny_version

NAME = "ner-en"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedVersion]:
    one = load_version(write_tiny_version(tmp_path_factory.mktemp("models")))
    yield one
    one.close()


def loading(loaded: LoadedVersion, version: int) -> LoadedVersion:
    """Another loading, of another version; only the registry would close it, and it does not close."""
    return replace(loaded, manifest=loaded.manifest.model_copy(update={"version": version}))


def watch() -> CanaryWatch:
    return CanaryWatch(AbortRule(requests=10, errors=1))


def test_what_is_leased_is_closed_when_its_last_lease_ends(loaded: LoadedVersion) -> None:
    closed: list[LoadedVersion] = []
    registry = Registry(2, closed.append)
    one = loading(loaded, 1)
    registry.add(one)
    registry.serve(NAME, 1)
    leases = [registry.lease(NAME), registry.lease(NAME, 1)]
    registry.add(loading(loaded, 2))
    registry.serve(NAME, 2)
    registry.retire(NAME, 1)
    assert registry.lease(NAME, 1) is None
    for lease in leases:
        assert closed == []
        assert lease
        assert lease.loaded is one
        lease.release()
    until(lambda: closed == [one])


def test_what_has_a_role_is_not_retired(loaded: LoadedVersion) -> None:
    closed: list[LoadedVersion] = []
    registry = Registry(2, closed.append)
    for version in (1, 2, 3):
        registry.add(loading(loaded, version))
    registry.serve(NAME, 1)
    registry.try_out(NAME, Tryout(Canary(version=2, percent=5), None))
    registry.pin(NAME, 3)
    for version in (1, 2, 3, 4):
        registry.retire(NAME, version)
    registry.retire("nothing", 1)
    assert closed == []
    assert sorted(registry.loaded(NAME)) == [1, 2, 3]


def test_a_new_loading_takes_the_place_and_the_roles_of_the_old_one(loaded: LoadedVersion) -> None:
    closed: list[LoadedVersion] = []
    registry = Registry(2, closed.append)
    old, new = loading(loaded, 1), loading(loaded, 1)
    registry.add(old)
    registry.serve(NAME, 1)
    lease = registry.lease(NAME)
    assert lease
    registry.add(new)
    assert registry.get(NAME) is new
    assert closed == []
    lease.release()
    until(lambda: bool(closed))
    assert closed[0] is old


def test_the_watch_learns_of_what_a_lease_says(loaded: LoadedVersion) -> None:
    registry = Registry(2, lambda one: None)
    registry.add(loading(loaded, 1))
    registry.serve(NAME, 1)
    judged = watch()
    for failed in [None] * 20 + [True] * 9:
        lease = registry.lease(NAME, watch=judged, by_canary=True)
        assert lease
        lease.release(failed)
    assert judged.verdict() is None  # nine of ten that it takes
    lease = registry.lease(NAME, watch=judged, by_canary=True)
    assert lease
    lease.release(False)
    assert (judged.verdict() or "").startswith("errors: 9 of its last 10 requests failed")


versions = st.integers(1, 4)
acts = st.one_of(
    st.tuples(st.sampled_from(["add", "serve", "try out", "pin", "unpin", "retire"]), versions),
    st.tuples(st.just("lease"), st.none() | versions),
    st.tuples(st.just("release"), st.integers(0, 20)),
    st.tuples(st.just("no canary"), st.none()),
)


@given(st.lists(acts, max_size=60))
def test_whatever_is_done_a_lease_keeps_its_version_and_all_is_closed_once(
    loaded: LoadedVersion, steps: list[tuple[str, Any]]
) -> None:
    closed = Counter[int]()
    registry = Registry(2, lambda one: closed.update([id(one)]))
    added, leases = list[LoadedVersion](), list[Lease]()
    for act, what in steps:
        held = registry.loaded(NAME)
        match act:
            case "add":
                added.append(loading(loaded, what))
                registry.add(added[-1])
            case "serve" if what in held:
                registry.serve(NAME, what)
            case "try out" if what in held:
                registry.try_out(NAME, Tryout(Canary(version=what, percent=5), None))
            case "no canary":
                registry.try_out(NAME, None)
            case "pin" if what in held:
                registry.pin(NAME, what)
            case "unpin":
                registry.unpin(NAME, what)
            case "retire":
                registry.retire(NAME, what)
            case "lease":
                lease = registry.lease(NAME, what)
                if lease:
                    leases.append(lease)
            case "release" if leases:
                leases.pop(what % len(leases)).release()
        assert not any(closed[id(lease.loaded)] for lease in leases)
        assert registry.canary(NAME) in {None, *registry.loaded(NAME)}
        assert registry.pinned(NAME) <= set(registry.loaded(NAME))
        assert len(registry.pinned(NAME)) <= 2
    for lease in leases:
        lease.release()
    registry.clear()
    until(lambda: closed == Counter(id(one) for one in added))
