"""Operations: what operators do to what is served. Each is one edit of the desired state.

The versions that a change brings pass their checks first: a refusal changes nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from app.errors import VersionRefused
from app.lifecycle.checks import Checker
from app.lifecycle.deployment import Canary, Change, Deployment, DeploymentChange, DeploymentStore
from app.lifecycle.repository import Repository

Prepare = Callable[[str, Deployment], AbstractContextManager[object]]


class Operations:
    """Operators' changes, made by a server or by a command beside it.

    Args:
        prepare: given a model and its deployment to be, loads what that needs, lets the state be edited,
            and serves it; or takes it back. A command beside the server has nothing to prepare.
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
            by, action: for the history.
            expected: the generation that the change was decided on; None is for any.

        Raises:
            NotFound: there is no such version. VersionRefused: one fails its checks. InvalidDeployment:
                the roles exclude each other. GenerationChanged: it is another generation than expected.
            StateUnreadable, StateUnwritable: see `DeploymentStore`. In all cases nothing changed.
        """
        self._repository.require(name)
        before = self._store.read(name) or Deployment()
        wanted = change.apply(before)
        for version in sorted(wanted.versions - before.versions):
            check = self._checker.current(name, version)
            if not check or check.refused:
                self._checker.check(name, version)
        with self._prepare(name, wanted):
            return self._store.edit(name, change.apply, by, action, expected)

    def activate(self, name: str, version: int, by: str) -> Deployment:
        """Make a version the stable one.

        Raises:
            As `deploy`.
        """
        return self.deploy(name, DeploymentChange(stable=version), by, action="activate")

    def rollback(self, name: str, by: str) -> Deployment:
        """Make the previous stable version the stable one again.

        Raises:
            VersionRefused: there is none, or as `deploy`.
        """
        previous = self.deployment(name).previous
        if previous is None:
            raise VersionRefused(f"{name}: no version served before", "no_previous_version")
        return self.deploy(name, DeploymentChange(stable=previous), by, action="rollback")

    def promote(self, name: str, by: str) -> Deployment:
        """Make the canary the stable version.

        Raises:
            VersionRefused: there is no canary, or as `deploy`.
        """
        canary, generation = self._canary(name)
        change = DeploymentChange(stable=canary.version)
        return self.deploy(name, change, by, generation, action="promote")

    def abort(self, name: str, by: str) -> Deployment:
        """Withdraw the canary: all requests go to the stable version.

        Raises:
            VersionRefused: there is no canary, or as `deploy`.
        """
        canary, _ = self._canary(name)
        return self.withdraw(name, canary.version, by, action="abort")

    def withdraw(self, name: str, version: int, by: str, action: str) -> Deployment:
        """Take a version out of all its roles; where it is stable, the previous one takes its place.

        Raises:
            StateUnreadable, StateUnwritable: nothing changed.
        """
        return self._store.edit(name, lambda before: before.without(version), by, action)

    def deployment(self, name: str) -> Deployment:
        """The desired state of a model.

        Raises:
            NotFound: there is no such model. StateUnreadable: its file is torn.
        """
        found = self._store.read(name)
        if found is None:
            self._repository.require(name)
        return found or Deployment()

    def history(self, name: str) -> list[Change]:
        """Who changed what when, oldest first.

        Raises:
            NotFound: there is no such model, and none was ever deployed.
        """
        changes = self._store.history(name)
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
