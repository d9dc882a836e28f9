"""Reconciler: asks for the plan of a model, carries out its steps, and keeps what is wrong.

A version passes a sandbox load, here or in the process that deployed it, before it is loaded here, so that
a bad file cannot crash this process. Models are changed independently of one another, each under a lock of
its own. Sandbox loads are slow, so they run without the lock, and so does the wait for a turn to load.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from app.errors import NerveError, NotFound, VersionRefused
from app.metrics import Metrics
from app.versions.loading.outcomes import Checker
from app.versions.rollout.desired import Deployment
from app.versions.rollout.holdings import Holdings
from app.versions.rollout.inputs import Attempt, InputReader, Inputs
from app.versions.rollout.operations import Operations
from app.versions.rollout.plan import needed, plan, shortfalls
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
from app.versions.rollout.store import DeploymentStore
from app.versions.rollout.turns import Turns
from app.versions.rollout.workers import ModelReport
from app.versions.storage.repository import Repository

log = logging.getLogger("nerve.lifecycle")

_ROUNDS = 1000
"""Most plans in a row, so that a bug cannot loop for ever; the next reconciliation goes on."""

_FOLDER = "folder"
"""Source of the problem that a folder is gone or cannot be read, which keeps nothing from serving."""


class Reconciler:
    """Brings the versions of this process to the roles that the desired state gives them.

    Args:
        changed: called when an operator's change has been carried out.
        first: the model that waits for no other to load.

    Attributes:
        holdings: what is loaded here.
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
        first: str | None = None,
    ):
        self.holdings = Holdings(checker, metrics, max_pinned)
        self.operations = Operations(repository, store, checker, self._prepared)
        self._reader = InputReader(repository, store, checker, self.holdings)
        self._repository = repository
        self._store = store
        self._checker = checker
        self._metrics = metrics
        self._changed = changed
        self._first = first
        self._locks: dict[str, threading.RLock] = {}
        # A load measures how fast the version runs, which another one beside it would disturb.
        self._loads = Turns(beginning=1, seconds=20, most=4)
        self._checks = Turns(beginning=2, seconds=5, most=8)
        self._pins = Turns(beginning=2, seconds=5, most=4)
        self._reports: dict[str, ModelReport] = {}
        self._problems: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def reconcile(self, name: str) -> None:
        """Plan and carry out steps until none are left."""
        attempt = Attempt()
        for _ in range(_ROUNDS):
            slow = self._carry_out(name, attempt, may_load=False)
            if not slow:
                return
            for step in slow:
                if isinstance(step, Check):
                    self._check(name, step, attempt)
                else:
                    with self._turn(name, self._loads):
                        self._carry_out(name, attempt, may_load=True)

    def end(self) -> None:
        """Let nobody wait for a turn any more, because the server ends."""
        for turns in (self._loads, self._checks, self._pins):
            turns.end()

    def pin(self, name: str, version: int) -> None:
        """Keep a version loaded for requests that pin it.

        Raises:
            NotFound: there is no such version. VersionRefused: it fails its checks. NotReady: it could not
                be checked.
        """
        self._repository.path(name, version)
        check = self._checker.current(name, version)
        known = check is not None and not check.undecided
        with nullcontext() if known else self._pins.turn():
            self._checker.ensure(name, version)
        with self._changing(name):
            if not self.holdings.registry.get(name, version):
                self.holdings.pin(name, version)

    def reports(self, names: Iterable[str]) -> dict[str, ModelReport]:
        """Return what this process serves of models, and which generations it has carried out.

        A model that is being changed is reported as it was before the change.
        """
        made = {name: self._reports[name] for name in names if name in self._reports}
        return {
            name: report.model_copy(update={"problem": self._told(name, besides=_FOLDER)})
            for name, report in made.items()
        }

    def problem(self, name: str) -> str | None:
        """Say why the desired state is not reached, or cannot be read; None where all is well."""
        return self._told(name)

    def note(self, name: str, source: str, problem: str | None) -> None:
        """Keep a problem of a model by its source, and log it when it is new; None clears it."""
        if not problem:
            self._problems[name].pop(source, None)
        elif self._problems[name].get(source) != problem:
            log.error("%s: %s", name, problem)
            self._problems[name][source] = problem

    def _told(self, name: str, besides: str | None = None) -> str | None:
        noted = dict(self._problems.get(name, {}))
        return "; ".join(dict.fromkeys(p for source, p in noted.items() if source != besides)) or None

    def _changing(self, name: str) -> threading.RLock:
        """Return the lock that is held while versions of a model are loaded and change roles."""
        return self._locks.setdefault(name, threading.RLock())

    def _turn(self, name: str, turns: Turns) -> AbstractContextManager[None]:
        return nullcontext() if name == self._first else turns.turn()

    def _check(self, name: str, check: Check, attempt: Attempt) -> None:
        try:
            with self._turn(name, self._checks):
                self._checker.ensure(name, check.version, again=True)
        except NerveError as error:
            self._missed(check.version, attempt, error)

    # steps

    def _carry_out(self, name: str, attempt: Attempt, may_load: bool) -> list[Step]:
        """Take all steps but slow ones; return these, for which the lock is not to be held.

        They are checks, which need no lock, or a load, whose turn must come first.

        Args:
            may_load: whether versions may be loaded now.
        """
        with self._changing(name):
            try:
                for _ in range(_ROUNDS):
                    inputs = self._reader.read(name, attempt)
                    steps = plan(inputs.desired, inputs.loaded, inputs.outcomes, inputs.torn is not None)
                    checks = [step for step in steps if isinstance(step, Check)]
                    others = [s for s in steps if not isinstance(s, Check) and s not in attempt.vain]
                    if not others:
                        if not checks:
                            self._conclude(name, inputs, attempt)
                        return list(checks)
                    for step in others:
                        if isinstance(step, Load | Renew) and not may_load:
                            return [step]
                        try:
                            self._take(name, step)
                        except NerveError as error:
                            self._excuse(name, step, attempt, error)
                            break  # the steps that follow may need this one
                return []
            finally:
                self._reports[name] = self._report(name)

    def _report(self, name: str) -> ModelReport:
        stable = self.holdings.registry.get(name)
        return ModelReport(
            generation=self._reader.carried_out.get(name, 0),
            stable=stable.manifest.version if stable else None,
            canary=self.holdings.registry.canary(name),
            shadow=tuple(self.holdings.shadows.get(name, {})),
            unchecked=tuple(v for v, check in self._checker.outcomes(name).items() if check.undecided),
        )

    def _take(self, name: str, step: Step) -> None:
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
            case Serve(version, awaited):
                holdings.serve(name, version, awaited)
            case Renew():
                holdings.renew(name, step)
            case Settle(version):
                by = "nerve: found no state, and this is the best version that passes its checks"
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

    def _excuse(self, name: str, step: Step, attempt: Attempt, error: NerveError) -> None:
        """Note why a step could not be taken, and do not try it again in this attempt."""
        attempt.vain.add(step)
        match step:
            case Load(version):
                self._missed(version, attempt, error)
            case Renew(version):
                attempt.problems.append(f"{name}/{version} gets no new session: {error.message}")
            case _:
                attempt.problems.append(error.message)

    def _missed(self, version: int, attempt: Attempt, error: NerveError) -> None:
        """Note why a version was not checked or loaded: by its own fault, or not."""
        if isinstance(error, VersionRefused | NotFound):  # the checker keeps the reason
            attempt.failed.add(version)
        else:
            attempt.undecided[version] = error.message

    def _conclude(self, name: str, inputs: Inputs, attempt: Attempt) -> None:
        """Note what could not be done when no steps are left, and the generation that is carried out."""
        checks, loaded = self._checker.outcomes(name), inputs.loaded
        reasons = {v: why for v, check in checks.items() if (why := check.refused or check.undecided)}
        reasons |= attempt.undecided
        torn = [inputs.torn] if inputs.torn else []
        lacking = shortfalls(inputs.desired, loaded, inputs.found, reasons, inputs.torn is not None)
        self.note(name, "deployment", "; ".join([*torn, *lacking, *attempt.problems]))
        answering = {loaded.stable, loaded.canary.version if loaded.canary else None} - {None}
        gone = ", ".join(f"{name}/{version}" for version in sorted(answering - inputs.found, key=str))
        lost = f"the folder of {gone} is gone, which serves from memory; put it back, or activate another"
        self.note(name, _FOLDER, inputs.unreadable or (lost if gone else None))
        self._reader.carried_out[name] = inputs.desired.generation

    def _take_out(self, name: str, version: int) -> None:
        """Remove a version from its roles in the state, and refuse it until it is checked again."""
        hangs = self.holdings.hangs(name, version)
        what = "hung on a batch" if hangs else "failed on three batches in a row"
        reason = f"{name}/{version} {what} while it served"
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
        attempt = Attempt()
        desired, _ = self._reader.desired(name)
        for load in needed(wanted, self.holdings.loaded(name)):
            if self._reader.outcome(name, load.version, desired, attempt) != "passed":
                self._checker.ensure(name, load.version, again=True)
        with self._changing(name):
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
            self._carry_out(name, attempt, may_load=True)
            self._changed()

    def _let_go(self, name: str, load: Load) -> None:
        if load.background:
            self.holdings.end_shadow(name, load.version)
        else:
            self.holdings.registry.retire(name, load.version)
