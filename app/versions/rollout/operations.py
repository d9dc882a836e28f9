"""Operations: the operators' commands. Each is one edit of the desired state.

New versions of a change are checked first; if one is refused, nothing changes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from app.errors import VersionRefused
from app.versions.loading.outcomes import Checker
from app.versions.rollout.desired import Canary, Deployment, DeploymentChange
from app.versions.rollout.store import Change, DeploymentStore, check_generation
from app.versions.storage.repository import Repository

Prepare = Callable[[str, Deployment], AbstractContextManager[object]]


class Operations:
    """Carries out operators' commands, in a server or in a command line beside it.

    Args:
        prepare: a context manager around the edit, given a model and its new deployment. It loads the
            versions before the edit and serves them after it; where the edit fails, it closes them. A
            command line has nothing to prepare.
    """

    def __init__(
        self,
        repository: Repository,
        store: DeploymentStore,
        checker: Checker,
        prepare: Prepare = lambda name, wanted: nullcontext(),
    ):
        self._repository = repository
        self._store = store
        self._checker = checker
        self._prepare = prepare

    def deploy(
        self,
        name: str,
        change: DeploymentChange,
        by: str,
        expected: int | None = None,
        action: str = "deploy",
    ) -> Deployment:
        """Change what a model should serve.

        Args:
            by: who makes the change, for the history.
            action: what is done, for the history.
            expected: the generation that the change was decided on; None allows any.

        Raises:
            NotFound: there is no such version. VersionRefused: one fails its checks. NotReady: one could
                not be checked. InvalidDeployment: the roles exclude each other. GenerationChanged: the
                generation is not the expected one. StateUnreadable, StateUnwritable: see
                `DeploymentStore`. RepositoryUnreadable: see `Repository`. In all cases nothing changed.
        """
        self._repository.require(name)
        before = self._store.read(name) or Deployment()
        check_generation(name, before, expected)
        wanted = change.apply(before)
        for version in sorted(wanted.versions - before.versions):
            self._checker.ensure(name, version, again=True)
        with self._prepare(name, wanted):
            return self._store.edit(name, change.apply, by, action, expected)

    def activate(self, name: str, version: int, by: str) -> Deployment:
        """Make a version the stable one.

        Raises:
            As `deploy`.
        """
        return self.deploy(name, DeploymentChange(stable=version), by, action="activate")

    def rollback(self, name: str, by: str, expected: int | None = None) -> Deployment:
        """Make the previous stable version the stable one again.

        Raises:
            VersionRefused: there is no previous version. Others: as `deploy`.
        """
        previous = self.deployment(name).previous
        if previous is None:
            raise VersionRefused(f"{name}: no version served before", "no_previous_version")
        return self.deploy(name, DeploymentChange(stable=previous), by, expected, action="rollback")

    def promote(self, name: str, by: str, expected: int | None = None) -> Deployment:
        """Make the canary the stable version.

        Raises:
            VersionRefused: there is no canary, or as `deploy`.
        """
        canary, generation = self._canary(name)
        change = DeploymentChange(stable=canary.version)
        expected = generation if expected is None else expected
        return self.deploy(name, change, by, expected, action="promote")

    def abort(self, name: str, by: str, expected: int | None = None) -> Deployment:
        """Withdraw the canary: all requests go to the stable version.

        Raises:
            VersionRefused: there is no canary, or as `deploy`.
        """
        canary, _ = self._canary(name)
        version = canary.version
        return self._store.edit(name, lambda d: d.without_canary(version), by, "abort", expected)

    def withdraw(self, name: str, version: int, by: str, canary_only: bool = False) -> bool:
        """Take a version out of its roles; if it is stable, the previous version replaces it.

        Returns:
            Whether anything changed; of several workers that withdraw it, only one sees True.

        Raises:
            StateUnreadable, StateUnwritable: nothing changed.
        """
        changed = False

        def change(before: Deployment) -> Deployment:
            nonlocal changed
            after = before.without_canary(version) if canary_only else before.without(version)
            changed = after != before
            return after

        self._store.edit(name, change, by, "abort" if canary_only else "take out")
        return changed

    def deployment(self, name: str) -> Deployment:
        """Return the desired state of a model.

        Raises:
            NotFound: there is no such model. StateUnreadable: its file is damaged.
        """
        found = self._store.read(name) if self._repository.possible(name) else None
        if found is None:
            self._repository.require(name)
        return found or Deployment()

    def history(self, name: str, limit: int | None = None) -> list[Change]:
        """Return the last changes of a model's deployment, oldest first.

        Args:
            limit: how many at most.

        Raises:
            NotFound: the model is not in the folder and was never deployed.
            StateUnreadable: the history cannot be read now.
        """
        changes = self._store.history(name, limit) if self._repository.possible(name) else []
        if not changes:
            self._repository.require(name)
        return changes

    def _canary(self, name: str) -> tuple[Canary, int]:
        deployment = self.deployment(name)
        if deployment.canary is None:
            raise VersionRefused(
                f"{name}: has no canary; start one with nerve models canary {name} VERSION --percent 5",
                "no_canary",
            )
        return deployment.canary, deployment.generation
