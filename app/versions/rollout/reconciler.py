"""Reconciler: asks for the plan of a model, carries out its steps, and keeps what is wrong.

A version passes a sandbox load, here or in the process that deployed it, before it is loaded here, so that
a bad file cannot crash this process. Sandbox loads are slow, so they run without the lock `changing`.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import NerveError
from app.metrics import Metrics
from app.versions.loading.outcomes import Checker
from app.versions.rollout.desired import Deployment
from app.versions.rollout.holdings import Holdings
from app.versions.rollout.operations import Operations
from app.versions.rollout.plan import Loaded, Outcome, needed, plan, shortfalls
from app.versions.rollout.steps import (
    Abort,
    Check,
    EndCanary,
    EndShadow,
    Load,
    Renew,
    Retire,
    Serve,
    SetCanary,
    SetShadow,
    Settle,
    Step,
    TakeOut,
)
from app.versions.rollout.store import DeploymentStore, StateUnreadable
from app.versions.rollout.workers import ModelReport
from app.versions.storage.repository import Repository

log = logging.getLogger("nerve.lifecycle")

_ROUNDS = 1000
"""Most plans in a row, so that a bug cannot loop for ever; the next reconciliation goes on."""


@dataclass
class _Attempt:
    """Keeps what one reconciliation has tried, so that it tries nothing twice.

    Attributes:
        generation: the generation of the deployment that is being carried out.
        failed: the versions that could not be checked or loaded.
        vain: the steps that could not be taken.
        problems: the reasons why steps could not be taken.
    """

    generation: int | None = None
    failed: set[int] = field(default_factory=set)
    vain: set[Step] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Inputs:
    """Holds what a plan is made from.

    Attributes:
        torn: what is wrong with the state file; None where it can be read.
    """

    desired: Deployment
    torn: str | None
    loaded: Loaded
    outcomes: dict[int, Outcome]


class Reconciler:
    """Brings the versions of this process to the roles that the desired state gives them.

    Args:
        changed: called when an operator's change has been carried out.

    Attributes:
        holdings: what is loaded here.
        changing: the lock that is held while versions are loaded and change roles.
        operations: the operators' commands, which load new versions here before they write the state.
    """

    def __init__(
        self,
        repository: Repository,
        store: DeploymentStore,
        checker: Checker,
        metrics: Metrics,
        max_pinned: int,
        changed: Callable[[], None],
    ):
        self.holdings = Holdings(checker, metrics, max_pinned)
        self.changing = threading.RLock()
        self.operations = Operations(repository, store, checker, self._prepared)
        self._repository = repository
        self._store = store
        self._checker = checker
        self._metrics = metrics
        self._changed = changed
        self._generations: dict[str, int] = {}  # carried out, as far as possible
        self._problems: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def reconcile(self, name: str) -> None:
        """Plan and carry out steps until none are left."""
        attempt = _Attempt()
        for _ in range(_ROUNDS):
            checks = self._carry_out(name, attempt)
            if not checks:
                return
            for check in checks:
                try:
                    self._checker.ensure(name, check.version, again=True)
                except NerveError:  # the checker keeps the reason, which `shortfalls` reports
                    attempt.failed.add(check.version)

    def pin(self, name: str, version: int) -> None:
        """Keep a version loaded for requests that pin it.

        Raises:
            NotFound: there is no such version. VersionRefused: it fails its checks.
        """
        self._repository.path(name, version)
        self._checker.ensure(name, version)
        with self.changing:
            if not self.holdings.registry.get(name, version):
                self.holdings.pin(name, version)

    def report(self, name: str) -> ModelReport:
        """Return what this process serves of a model, and which generation it has carried out."""
        stable = self.holdings.registry.get(name)
        return ModelReport(
            generation=self._generations.get(name, 0),
            stable=stable.manifest.version if stable else None,
            canary=self.holdings.registry.canary(name),
            shadow=tuple(self.holdings.shadows.get(name, {})),
            problem=self.problem(name),
        )

    def problem(self, name: str) -> str | None:
        """Say why the desired state is not reached, or cannot be read; None where all is well."""
        return "; ".join(dict.fromkeys(self._problems.get(name, {}).values())) or None

    def note(self, name: str, source: str, problem: str | None) -> None:
        """Keep a problem of a model by its source, and log it when it is new; None clears it."""
        if not problem:
            self._problems[name].pop(source, None)
        elif self._problems[name].get(source) != problem:
            log.error("%s: %s", name, problem)
            self._problems[name][source] = problem

    # inputs

    def _inputs(self, name: str, attempt: _Attempt) -> _Inputs:
        desired, torn = self._desired(name)
        if attempt.generation != desired.generation:  # refused versions are retried
            attempt.generation = desired.generation
            attempt.failed.clear()
        loaded = self.holdings.loaded(name)
        found = set(self._repository.versions(name))
        asked = found & {load.version for load in needed(desired, loaded)} if loaded.stable else found
        outcomes = {version: self._outcome(name, version, desired, attempt) for version in asked}
        return _Inputs(desired, torn, loaded, outcomes)

    def _desired(self, name: str) -> tuple[Deployment, str | None]:
        """Return the desired state, and why its file cannot be read; then it is the last known state."""
        try:
            return self._store.read(name) or Deployment(), None
        except StateUnreadable as error:
            last = self._store.last(name)
            return last.deployment if last else Deployment(), error.message

    def _outcome(self, name: str, version: int, desired: Deployment, attempt: _Attempt) -> Outcome:
        """Say what is known of a version in the folder; a refused one is tried once per generation."""
        if version in attempt.failed:
            return "refused"
        check = self._checker.current(name, version)
        if check is None:
            return "passed" if self._vouched(name, version, desired) else "untried"
        if check.refused is None:
            return "passed"
        return "refused" if self._generations.get(name) == desired.generation else "untried"

    def _vouched(self, name: str, version: int, desired: Deployment) -> bool:
        """Say whether the process that wrote the state checked a version; an edit by hand checks none."""
        last = self._store.last(name)
        return version in desired.versions and last is not None and last.deployment == desired

    # steps

    def _carry_out(self, name: str, attempt: _Attempt) -> list[Check]:
        """Take all steps but checks; return the checks, which are slow and need no lock."""
        with self.changing:
            for _ in range(_ROUNDS):
                inputs = self._inputs(name, attempt)
                steps = plan(inputs.desired, inputs.loaded, inputs.outcomes, inputs.torn is not None)
                checks = [step for step in steps if isinstance(step, Check)]
                others = [s for s in steps if not isinstance(s, Check) and s not in attempt.vain]
                if not others:
                    if not checks:
                        self._conclude(name, inputs, attempt)
                    return checks
                for step in others:
                    try:
                        self._take(name, step, attempt)
                    except NerveError as error:
                        self._excuse(name, step, attempt, error)
                        break  # the steps that follow may need this one
        return []

    def _take(self, name: str, step: Step, attempt: _Attempt) -> None:
        """Take one step.

        Raises:
            NerveError: it cannot be taken.
        """
        holdings = self.holdings
        match step:
            case TakeOut(version):
                self._take_out(name, version)
            case Abort(version, reason):
                self._abort(name, version, reason)
            case Load():
                holdings.load(name, step)
            case Serve(version):
                holdings.serve(name, version)
            case Renew():
                holdings.renew(name, step)
            case Settle(version):
                by = "nerve: found no state"
                self._store.edit(name, lambda d: d if d.stable else d.with_stable(version), by, "start")
            case SetCanary(canary):
                holdings.set_canary(name, canary)
            case EndCanary():
                holdings.end_canary(name)
            case SetShadow(shadow):
                holdings.set_shadow(name, shadow)
            case EndShadow(version):
                holdings.end_shadow(name, version)
            case Retire(version):
                holdings.registry.retire(name, version)

    def _excuse(self, name: str, step: Step, attempt: _Attempt, error: NerveError) -> None:
        """Note why a step could not be taken, and do not try it again in this attempt."""
        attempt.vain.add(step)
        match step:
            case Load(version):  # the checker keeps the reason, which `shortfalls` reports
                attempt.failed.add(version)
            case Renew(version):
                attempt.problems.append(f"{name}/{version} gets no new session: {error.message}")
            case _:
                attempt.problems.append(error.message)

    def _conclude(self, name: str, inputs: _Inputs, attempt: _Attempt) -> None:
        """Note what could not be done when no steps are left, and the generation that is carried out."""
        checks, found = self._checker.outcomes(name), self._repository.versions(name)
        refusals = {version: check.refused for version, check in checks.items() if check.refused}
        torn = [inputs.torn] if inputs.torn else []
        lacking = shortfalls(inputs.desired, inputs.loaded, found, refusals, inputs.torn is not None)
        self.note(name, "deployment", "; ".join([*torn, *lacking, *attempt.problems]))
        self._generations[name] = inputs.desired.generation

    def _take_out(self, name: str, version: int) -> None:
        """Remove a version from its roles in the state, and refuse it until it is checked again."""
        reason = f"{name}/{version} failed on three batches in a row while it served"
        log.error("%s", reason)
        withdrawn, problem = False, None
        try:
            withdrawn = self.operations.withdraw(name, version, f"nerve: {reason}")
        except NerveError as error:
            problem = f"{reason}, and that cannot be written down: {error.message}"
        self.note(name, "take out", problem)
        if withdrawn:
            hint = "see the log for the session's error, and activate it to try again"
            self._checker.refuse(name, version, f"{reason}; {hint}")
        self.holdings.fail(name, version, counted=withdrawn)

    def _abort(self, name: str, version: int, verdict: str) -> None:
        """End a canary here and in the state."""
        self.holdings.end_canary(name)
        if self.operations.withdraw(name, version, f"nerve: {verdict}", canary_only=True):
            log.error("%s/%d is withdrawn as a canary: %s", name, version, verdict)
            self._metrics.canary_aborts.labels(name, str(version), verdict.partition(":")[0]).inc()

    # operators' changes

    @contextmanager
    def _prepared(self, name: str, wanted: Deployment) -> Iterator[None]:
        """Load a deployment's versions before it is written, serve them after; on an error, drop them."""
        attempt = _Attempt()
        desired, _ = self._desired(name)
        for load in needed(wanted, self.holdings.loaded(name)):
            if self._outcome(name, load.version, desired, attempt) != "passed":
                self._checker.ensure(name, load.version, again=True)
        with self.changing:
            loads: list[Load] = []
            try:
                for load in needed(wanted, self.holdings.loaded(name)):
                    self.holdings.load(name, load)
                    loads.append(load)
                yield
            except BaseException:
                for load in loads:
                    self._let_go(name, load)
                raise
            self._carry_out(name, attempt)
            self._changed()

    def _let_go(self, name: str, load: Load) -> None:
        if load.background:
            self.holdings.end_shadow(name, load.version)
        else:
            self.holdings.registry.retire(name, load.version)
