"""Loading: from a version's folder to a predictor that has proved itself."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakValueDictionary

from app.engine.batching.report import BatchReport
from app.engine.ensemble.model import Ensemble
from app.engine.memory import give_memory_back
from app.engine.model import Limits, Model, Network
from app.engine.priority import give_way
from app.engine.runtimes.runtime import Running
from app.engine.runtimes.session import CUDA, OnnxSession, Provider, available_cpus, choose_provider
from app.engine.runtimes.tuning import Plan, Sessions, make_batches, token_budget, tune
from app.engine.text.tokenizer import Tokenizer
from app.errors import VersionRefused
from app.labels import WordRule
from app.manifest import Manifest, Variant, read_manifest, verify_files
from app.versions.loading.refusals import refusing, still_there, where_of
from app.versions.loading.self_test import check_ensemble, check_golden, check_tokenizer
from app.versions.storage.repository import Fingerprint, fingerprint

__all__ = [
    "LoadOptions",
    "LoadedSingle",
    "LoadedVersion",
    "Loader",
    "MemberVariants",
    "check_golden",
    "choose_variant",
    "load_single",
    "load_version",
]

Report = Callable[[BatchReport], None]

CPU_BATCH_TOKENS = 512
"""Sub-tokens of a batch on a CPU: larger ones are no faster, and what the largest took is kept."""

_ALIKE = 0.1
"""Networks whose files differ in size by no more than this part are taken for alike."""

_CUDA_RUNS = 2
"""Batches at a time on a GPU: it runs one while the other is made or decoded."""


@dataclass(frozen=True)
class LoadOptions:
    """How versions are checked and run on this machine; see the settings of the same names."""

    provider: Provider = "cpu"
    allow_cpu_fallback: bool = False
    variant: str = "auto"
    threads: int = 0
    runs: int = 0
    max_queue_tokens: int = 1_000_000
    max_batch_tokens: int = 0
    load_timeout: float = 120.0
    load_memory_bytes: int = 0
    trusted_keys: tuple[Path, ...] = ()


@dataclass(frozen=True)
class MemberVariants:
    """What an ensemble runs: a variant of each member, and none of its own."""

    variants: tuple[Variant, ...]

    @property
    def precision(self) -> str:
        """Each precision that a member runs in, such as `int8` or `fp32+int8`."""
        return "+".join(sorted({variant.precision for variant in self.variants}))


@dataclass(frozen=True)
class LoadedVersion:
    """A version that passed every check, with what it runs on.

    Attributes:
        threads: that it runs on in all; of an ensemble, of all members together.
        runs: batches at a time, among which the threads are parted.
        predictor: the version's own, or shared with others that use it; `close` knows.
        release: what `close` does.
    """

    manifest: Manifest
    variant: Variant | MemberVariants
    provider: str
    threads: int
    runs: int
    model: Model
    release: Callable[[], None] = field(repr=False, compare=False)

    def close(self) -> None:
        """Give it back: what nobody else uses finishes what is queued and closes. Once is enough."""
        self.release()


@dataclass(frozen=True)
class LoadedSingle(LoadedVersion):
    """One network that passed every check."""

    variant: Variant
    model: Network


class Loader:
    """Loads versions into this process. What several of them have in common is loaded once.

    A network that is asked for again while it is loaded, for itself or as a member of an ensemble, is
    shared until its last user closes it, as long as its folder stays as it is. Tokenizers are shared by
    all versions that bring the same file.

    Args:
        report: gives what is told of every batch of a version, a member's under its own name.
    """

    def __init__(
        self,
        options: LoadOptions = LoadOptions(),
        report: Callable[[str, int], Report] = lambda model, version: lambda batch: None,
    ):
        self._options = options
        self._report = report
        self._lock = threading.Lock()  # held for moments only, never while loading or closing
        self._shared: dict[_Key, _Shared] = {}
        self._plans: dict[tuple[str, int], tuple[int, Plan]] = {}  # with the bytes of the network
        self._tokenizers: WeakValueDictionary[tuple[str, WordRule], Tokenizer] = WeakValueDictionary()

    def load(self, folder: Path, *, models: Path | None = None, background: bool = False) -> LoadedVersion:
        """Verify, load, warm up and check a version against its golden texts; it is the caller's to close.

        Args:
            models: where an ensemble's members are looked for; by default beside it.
            background: run it on one thread a network, and only where nothing else wants the processor.
                It is shared with other versions in the background alone.

        Raises:
            VersionRefused: it failed; the message says where, why, and what to do.
        """
        if not background:
            return self._load(folder, models, self._options, background)
        with ThreadPoolExecutor(1, "load", give_way) as thread:
            options = replace(self._options, threads=1)
            return thread.submit(self._load, folder, models, options, background).result()

    def load_single(self, folder: Path) -> LoadedSingle:
        """As `load`, for callers that need the network or the tokenizer itself.

        Raises:
            VersionRefused: it failed, or is an ensemble.
        """
        manifest = read_manifest(folder)
        if manifest.kind == "ensemble":
            raise VersionRefused(
                f"{where_of(folder)}: is an ensemble, and one network is needed; name one of its members "
                f"({', '.join(manifest.members)}) in its place"
            )
        return self._single(folder, self._options, background=False)

    def _load(
        self, folder: Path, models: Path | None, options: LoadOptions, background: bool
    ) -> LoadedVersion:
        manifest = read_manifest(folder)
        if manifest.kind == "single":
            return self._single(folder, options, background)
        with still_there(folder):
            _verify(folder, manifest, options)
            return self._ensemble(folder, manifest, models or folder.parent.parent, options, background)

    def _single(self, folder: Path, options: LoadOptions, background: bool) -> LoadedSingle:
        """A network, loaded by the first who asks for it; others wait for it and share it."""
        key = (folder.resolve(), fingerprint(folder), background)
        with self._lock:
            shared = self._shared.get(key)
            first = shared is None or shared.broken
            if shared is None or shared.broken:
                shared = self._shared[key] = _Shared()
            shared.users += 1
        if first:
            try:
                with still_there(folder):
                    opened = self._open(folder, options, background)
                give_memory_back()  # the file's bytes, and sessions that were tried
                shared.loaded.set_result(opened)
            except BaseException as error:
                self._forget(key, shared)
                shared.loaded.set_exception(error)
        return replace(shared.loaded.result(), release=_once(lambda: self._give_back(key, shared)))

    def _give_back(self, key: "_Key", shared: "_Shared") -> None:
        with self._lock:
            shared.users -= 1
            unused = not shared.users
            if unused and self._shared.get(key) is shared:
                del self._shared[key]
        if unused:
            shared.loaded.result().close()

    def _forget(self, key: "_Key", shared: "_Shared") -> None:
        with self._lock:
            if self._shared.get(key) is shared:
                del self._shared[key]

    def _open(self, folder: Path, options: LoadOptions, background: bool) -> LoadedSingle:
        where, manifest = where_of(folder), read_manifest(folder)
        _verify(folder, manifest, options)
        with refusing(where, "cannot be loaded"):
            provider = choose_provider(options.provider, options.allow_cpu_fallback)
            variant = choose_variant(manifest, provider, options.variant)
            tokenizer = self._tokenizer(folder, manifest)
            check_tokenizer(where, manifest, tokenizer)
            first = _open_session(folder, manifest, variant, provider, 1)
        with refusing(where, "does not run"):
            batches = make_batches(manifest, tokenizer.pad_id)
            size = manifest.files[variant.file].size
            if provider == CUDA:
                sessions = Sessions(first, options.runs or _CUDA_RUNS, first)
            else:
                sessions = tune(
                    lambda threads: (
                        first
                        if threads == first.threads
                        else _open_session(folder, manifest, variant, provider, threads)
                    ),
                    options.threads or available_cpus(),
                    batches,
                    self._plan(manifest.name, options, size),
                )
                self._plans[manifest.name, options.threads] = size, sessions.plan
            max_batch_tokens = options.max_batch_tokens or (
                token_budget(first, batches, manifest.max_length, sessions.runs)
                if provider == CUDA
                else CPU_BATCH_TOKENS
            )
            predictor = Network(
                manifest,
                tokenizer,
                Running(
                    sessions.session,
                    sessions.lone,
                    sessions.runs,
                    first.provider,
                    sessions.runs * sessions.session.threads,
                    max_batch_tokens,
                ),
                Limits(options.max_queue_tokens),
                self._report(manifest.name, manifest.version),
                background,
            )
        _prove(where, predictor)
        return LoadedSingle(
            manifest,
            variant,
            first.provider,
            sessions.runs * sessions.session.threads,
            sessions.runs,
            predictor,
            release=predictor.close,
        )

    def _plan(self, model: str, options: LoadOptions, size: int) -> Plan:
        """How a version of a model, whose network has so many bytes, is to run: as the one before, where
        that is about as large. Most likely it serves, and measuring would tell more of its load."""
        before, plan = self._plans.get((model, options.threads), (0, Plan()))
        return plan if abs(size - before) <= _ALIKE * before else Plan(options.runs)

    def _tokenizer(self, folder: Path, manifest: Manifest) -> Tokenizer:
        """The tokenizer of a version. One is held while any version uses it: to read it takes long, and
        nothing else can run in this process meanwhile."""
        key = (manifest.files[manifest.tokenizer].sha256, manifest.words)
        tokenizer = self._tokenizers.get(key)
        if tokenizer is None:
            tokenizer = Tokenizer.from_file(folder / manifest.tokenizer, manifest.words)
            self._tokenizers[key] = tokenizer
        return tokenizer

    def _ensemble(
        self, folder: Path, manifest: Manifest, models: Path, options: LoadOptions, background: bool
    ) -> LoadedVersion:
        where = where_of(folder)
        check_ensemble(where, manifest, models)
        if not background:  # members run at the same time: together they take the threads of one version
            threads = max(1, (options.threads or available_cpus()) // len(manifest.members))
            options = replace(options, threads=threads)
        members: list[LoadedSingle] = []
        with ExitStack() as opened:
            for member in manifest.members:
                try:
                    members.append(self._single(models / member, options, background))
                except VersionRefused as error:
                    raise VersionRefused(f"{where}: member {error.message}") from error
                opened.callback(members[-1].close)
            release = _once(opened.pop_all().close)
        try:
            predictor = Ensemble(manifest, [member.model for member in members], release)
        except BaseException:
            release()
            raise
        _prove(where, predictor)
        return LoadedVersion(
            manifest,
            MemberVariants(tuple(member.variant for member in members)),
            "+".join(sorted({member.provider for member in members})),
            sum(member.threads for member in members),
            sum(member.runs for member in members),
            predictor,
            release,
        )


_Key = tuple[Path, Fingerprint, bool]


class _Shared:
    """A network and how many use it."""

    def __init__(self) -> None:
        self.users = 0
        self.loaded: Future[LoadedSingle] = Future()

    @property
    def broken(self) -> bool:
        """It is loaded, and no longer of use to anyone new."""
        if not self.loaded.done() or self.loaded.exception():
            return False
        predictor = self.loaded.result().model
        return predictor.failing or not predictor.alive


def load_version(
    folder: Path, options: LoadOptions = LoadOptions(), report: Report = lambda _: None
) -> LoadedVersion:
    """Verify, load, warm up and check a version that is shared with no other; see `Loader.load`.

    Raises:
        VersionRefused: it failed; the message says where, why, and what to do.
    """
    return Loader(options, lambda model, version: report).load(folder)


def load_single(
    folder: Path, options: LoadOptions = LoadOptions(), report: Report = lambda _: None
) -> LoadedSingle:
    """As `load_version`, for callers that need the network or the tokenizer itself.

    Raises:
        VersionRefused: it failed, or is an ensemble.
    """
    return Loader(options, lambda model, version: report).load_single(folder)


def _open_session(
    folder: Path, manifest: Manifest, variant: Variant, provider: str, threads: int
) -> OnnxSession:
    """A session that takes and gives what the manifest says.

    Raises:
        VersionRefused: it takes or gives something else.
    """
    session = OnnxSession(
        folder / variant.file, provider, threads, output=manifest.output, max_length=manifest.max_length
    )
    if set(session.inputs) != set(manifest.inputs) or manifest.output not in session.outputs:
        raise VersionRefused(
            f"{where_of(folder)}: {variant.file} has inputs {sorted(session.inputs)} and outputs "
            f"{sorted(session.outputs)}, the manifest says {sorted(manifest.inputs)} and "
            f"{manifest.output}; export it again"
        )
    return session


def _verify(folder: Path, manifest: Manifest, options: LoadOptions) -> None:
    if options.trusted_keys:
        from app.versions.storage.signatures import check_signature  # its library is optional

        with refusing(where_of(folder), "its signature cannot be checked"):
            check_signature(folder, options.trusted_keys, manifest)
    verify_files(folder, manifest)


def _prove(where: str, predictor: Model) -> None:
    """Close a version that fails its golden texts."""
    try:
        with refusing(where, "a golden text fails"):
            check_golden(where, predictor)
    except BaseException:
        predictor.close()
        raise


def choose_variant(manifest: Manifest, provider: str, wanted: str = "auto") -> Variant:
    """The variant to load: the wanted precision, or the first one meant for the provider.

    Raises:
        VersionRefused: the version has no such variant.
    """
    if wanted != "auto":
        fitting = [v for v in manifest.variants if v.precision == wanted]
    else:
        fitting = [v for v in manifest.variants if provider in v.providers]
        if not fitting and provider == CUDA:
            fitting = list(manifest.variants)  # any file runs there, if slower
    if not fitting:
        have = ", ".join(f"{v.precision} for {'/'.join(v.providers)}" for v in manifest.variants)
        raise VersionRefused(
            f"no variant {wanted!r} for {provider} (it has {have}); "
            "make one with nerve-train export, or set NERVE_VARIANT=auto"
        )
    return fitting[0]


def _once(call: Callable[[], None]) -> Callable[[], None]:
    """The same call, made at most once."""
    unmade = threading.Lock()
    return lambda: call() if unmade.acquire(blocking=False) else None
