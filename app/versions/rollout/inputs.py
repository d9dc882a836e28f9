"""Inputs: gathers what the plan of a model is made from, and remembers what was tried."""

from dataclasses import dataclass, field

from app.versions.loading.outcomes import Checker
from app.versions.rollout.desired import Deployment
from app.versions.rollout.holdings import Holdings
from app.versions.rollout.plan import Loaded, Outcome, needed
from app.versions.rollout.steps import Step
from app.versions.rollout.store import DeploymentStore, StateUnreadable
from app.versions.storage.repository import Repository, RepositoryUnreadable


@dataclass
class Attempt:
    """Keeps what one reconciliation has tried, so that it tries nothing twice.

    Attributes:
        generation: the generation of the deployment that is being carried out.
        failed: the versions that were refused by a check or a load.
        undecided: why versions could not be checked or loaded, for reasons that are not their own.
        vain: the steps that could not be taken.
        problems: the reasons why steps could not be taken.
    """

    generation: int | None = None
    failed: set[int] = field(default_factory=set)
    undecided: dict[int, str] = field(default_factory=dict)
    vain: set[Step] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inputs:
    """Holds what a plan is made from.

    Attributes:
        torn: what is wrong with the state file; None where it can be read.
        found: the versions in the folder, or those last known if it cannot be read.
        unreadable: why the folder cannot be read; None where it can.
    """

    desired: Deployment
    torn: str | None
    found: set[int]
    unreadable: str | None
    loaded: Loaded
    outcomes: dict[int, Outcome]


class InputReader:
    """Reads the folder, the desired state, the outcomes of checks, and what is loaded here.

    Attributes:
        carried_out: each model's generation that was carried out, as far as possible.
    """

    def __init__(
        self, repository: Repository, store: DeploymentStore, checker: Checker, holdings: Holdings
    ):
        self.carried_out: dict[str, int] = {}
        self._repository = repository
        self._store = store
        self._checker = checker
        self._holdings = holdings
        self._found: dict[str, set[int]] = {}

    def read(self, name: str, attempt: Attempt) -> Inputs:
        """Return what the next plan of a model is made from."""
        desired, torn = self.desired(name)
        if attempt.generation != desired.generation:  # refused versions are retried
            attempt.generation = desired.generation
            attempt.failed.clear()
            attempt.undecided.clear()
        loaded = self._holdings.loaded(name)
        found, unreadable = self._versions(name)
        asked = found
        if loaded.stable:
            asked = found & ({load.version for load in needed(desired, loaded)} | loaded.awaited)
        outcomes = {version: self.outcome(name, version, desired, attempt) for version in asked}
        return Inputs(desired, torn, found, unreadable, loaded, outcomes)

    def _versions(self, name: str) -> tuple[set[int], str | None]:
        """Return the versions in the folder, and why it cannot be read; then they are the last known."""
        try:
            self._found[name] = set(self._repository.versions(name))
        except RepositoryUnreadable as error:
            return self._found.get(name, set()), error.message
        return self._found[name], None

    def desired(self, name: str) -> tuple[Deployment, str | None]:
        """Return the desired state, and why its file cannot be read; then it is the last known state."""
        try:
            return self._store.read(name) or Deployment(), None
        except StateUnreadable as error:
            last = self._store.last(name)
            return last.deployment if last else Deployment(), error.message

    def outcome(self, name: str, version: int, desired: Deployment, attempt: Attempt) -> Outcome:
        """Say what is known of a version in the folder.

        For each generation a refused version is tried once, and an undecided one at once and after pauses.
        """
        if version in attempt.failed:
            return "refused"
        if version in attempt.undecided:
            return "undecided"
        try:
            check = self._checker.current(name, version)
        except RepositoryUnreadable as error:
            attempt.undecided[version] = error.message
            return "undecided"
        tried = self.carried_out.get(name) == desired.generation
        if check is None or check.undecided:
            if tried and check and check.pauses:
                return "undecided"
            return "passed" if self._vouched(name, version, desired) else "untried"
        if check.refused is None:
            return "passed"
        return "refused" if tried else "untried"

    def _vouched(self, name: str, version: int, desired: Deployment) -> bool:
        """Say whether the process that wrote the state checked a version; an edit by hand checks none."""
        last = self._store.last(name)
        return version in desired.versions and last is not None and last.deployment == desired
