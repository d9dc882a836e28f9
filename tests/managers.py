"""Version managers on real folders, for tests. Each reconciliation is asked for by the test itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from prometheus_client import generate_latest

from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.options import LoadOptions
from app.versions.rollout.manager import VersionManager
from app.versions.rollout.store import DeploymentStore
from app.versions.storage.repository import Repository
from tests.servers import sample_sum
from tests.tiny import TEXT

Make = Callable[[], VersionManager]

_metrics: WeakKeyDictionary[VersionManager, Metrics] = WeakKeyDictionary()


def make_manager(models: Path) -> VersionManager:
    """A manager of a models folder, as of a server that starts; the caller closes it."""
    metrics = Metrics()
    manager = VersionManager(
        Repository(models),
        DeploymentStore(models / ".state"),
        LoadOptions(threads=1),
        metrics,
        max_pinned=2,
        poll_seconds=0.02,
    )
    _metrics[manager] = metrics
    return manager


@contextmanager
def leased(
    manager: VersionManager, name: str = "ner-en", version: int | None = None
) -> Iterator[LoadedVersion]:
    """A version with a lease on it, as a request has it; one that is pinned is loaded first."""
    while (lease := manager.lease(name, version)) is None:
        assert version is not None
        manager.load_pinned(name, version)
    try:
        yield lease.loaded
    finally:
        lease.release()


def served(manager: VersionManager, name: str = "ner-en", version: int | None = None) -> int:
    """The version that answers a request."""
    with leased(manager, name, version) as loaded:
        loaded.model.predict([TEXT])
        return loaded.manifest.version


def follow(manager: VersionManager) -> None:
    """Follow the desired state once, and check once what is new."""
    manager.reconcile()
    manager.check()


def states(manager: VersionManager) -> dict[int, str]:
    """The state of each version of `ner-en`."""
    return {status.version: status.state for status in manager.model_status("ner-en")}


def write_state(manager: VersionManager, content: str) -> None:
    """Edit the state file of `ner-en` by hand."""
    path = manager.store.path("ner-en")
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


def metric(manager: VersionManager, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sample_sum(generate_latest(_metrics[manager].registry).decode(), name, labels)
