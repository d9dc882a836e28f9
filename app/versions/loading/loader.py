"""The loader turns a version's folder into a model that passed its self-test."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from app.engine.batching.report import BatchReport
from app.engine.batching.samples import sample_batches
from app.engine.ensemble.model import Ensemble
from app.engine.memory import give_memory_back
from app.engine.model import Limits, Network
from app.engine.priority import give_way
from app.engine.runtimes.runtime import Contract, OnnxFile, Session, Settled, Wanted
from app.engine.runtimes.table import choose_runtime
from app.errors import VersionRefused
from app.machine import available_cpus
from app.manifest import Manifest, read_manifest, verify_files
from app.versions.loading.loaded import LoadedSingle, LoadedVersion, MemberVariants
from app.versions.loading.options import DEFAULTS, LoadOptions
from app.versions.loading.refusals import refusing, still_there, where_of
from app.versions.loading.self_test import (
    check_ensemble,
    check_member_hash,
    check_tokenizer,
    self_test,
)
from app.versions.loading.sharing import SharedNetworks, SharedTokenizers, once
from app.versions.loading.trust import Trusted, read_trusted
from app.versions.loading.variants import choose_variant
from app.versions.storage.repository import fingerprint
from app.versions.storage.signatures import UNLISTED

Report = Callable[[BatchReport], None]

_ALIKE = 0.1
"""Networks count as alike if the sizes of their files differ by at most this part."""


class Loader:
    """Loads versions into this process. Networks and tokenizers that several versions use are loaded once.

    A network that is loaded already is shared with a version that needs it too, such as an ensemble, until
    all have closed it. If its folder has changed, it is loaded anew. Versions with equal tokenizer files
    share the tokenizer.

    Args:
        report: returns the function that gets a report of every batch of a model and version; members of
            ensembles report under the member's name.
    """

    def __init__(
        self,
        options: LoadOptions = DEFAULTS,
        report: Callable[[str, int], Report] = lambda model, version: lambda batch: None,
    ):
        self._options = options
        self._report = report
        self._networks = SharedNetworks()
        self._tokenizers = SharedTokenizers()
        self._settled: dict[tuple[str, int], tuple[int, Settled]] = {}
        """For each model and number of threads: bytes of the last version's network, and how it ran."""

    def load(self, folder: Path, *, models: Path | None = None, background: bool = False) -> LoadedVersion:
        """Verify, load, warm up and check a version against its golden texts. The caller must close it.

        Args:
            models: folder with the members of an ensemble; by default the models folder of the version.
            background: whether to run each network on one thread of low priority. Its networks are then
                only shared with other versions that run in the background.

        Raises:
            VersionRefused: the version failed; the message says where, why, and what to do.
            NotChecked: this machine lacks what the load needs, such as memory.
        """
        if not background:
            return self._load(folder, models, self._options, background)
        with ThreadPoolExecutor(1, "load", give_way) as thread:
            options = replace(self._options, threads=1)
            return thread.submit(self._load, folder, models, options, background).result()

    def load_single(self, folder: Path) -> LoadedSingle:
        """Load a version as `load` does, for callers that need its network or tokenizer.

        Raises:
            VersionRefused: the version failed, or is an ensemble.
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
        if read_manifest(folder).kind == "single":
            return self._single(folder, options, background)
        with still_there(folder):
            trusted = read_trusted(folder, options)
            verify_files(folder, trusted.manifest)
            return self._ensemble(folder, trusted, models or folder.parent.parent, options, background)

    def _single(self, folder: Path, options: LoadOptions, background: bool) -> LoadedSingle:
        def load() -> LoadedSingle:
            with still_there(folder):
                opened = self._open(folder, options, background)
            give_memory_back()  # frees the file's bytes, and sessions that were only measured
            return opened

        return self._networks.take((folder.resolve(), fingerprint(folder), background), load)

    def _open(self, folder: Path, options: LoadOptions, background: bool) -> LoadedSingle:
        where, trusted = where_of(folder), read_trusted(folder, options)
        manifest = trusted.manifest
        contract = Contract(frozenset(manifest.inputs), manifest.output, manifest.max_length)
        with refusing(where, "cannot be loaded"):
            runtime = choose_runtime(options.provider, options.allow_cpu_fallback)
            variant = choose_variant(manifest, runtime, options.variant)
            weights = _weights(manifest)
            files = verify_files(folder, manifest, (variant.file, manifest.tokenizer, *weights))
            file = OnnxFile(variant.file, files[variant.file], {name: files[name] for name in weights})
            tokenizer = self._tokenizers.take(manifest, files[manifest.tokenizer])
            check_tokenizer(where, manifest, tokenizer)
            narrow = runtime.open(file, contract, 1)
        with refusing(where, "does not run"):

            def open_session(threads: int) -> Session:
                return narrow if threads == 1 else runtime.open(file, contract, threads)

            batches = sample_batches(manifest.inputs, tokenizer.frame, manifest.max_length)
            size = manifest.files[variant.file].size
            wanted = self._wanted(manifest.name, size, options)
            running = runtime.plan(open_session, batches, contract, wanted)
            self._settled[manifest.name, options.threads] = size, running.settled
            network = Network(
                manifest,
                tokenizer,
                running,
                Limits(options.max_queue_tokens, options.batch_timeout),
                self._report(manifest.name, manifest.version),
                background,
            )
        self_test(where, network)
        return LoadedSingle(
            manifest,
            trusted.sha256,
            variant,
            running.provider,
            running.threads,
            running.runs,
            network,
            network.close,
        )

    def _wanted(self, model: str, size: int, options: LoadOptions) -> Wanted:
        """Say how a model's version whose network has `size` bytes should run.

        It runs as the model's last version does if their networks are about as large. That version most
        likely serves, and its load would spoil a measurement.
        """
        before, settled = self._settled.get((model, options.threads), (0, Settled()))
        if abs(size - before) > _ALIKE * before:
            settled = Settled(options.runs)
        return Wanted(options.threads or available_cpus(), settled, options.max_batch_tokens)

    def _ensemble(
        self, folder: Path, trusted: Trusted, models: Path, options: LoadOptions, background: bool
    ) -> LoadedVersion:
        where, manifest = where_of(folder), trusted.manifest
        check_ensemble(where, manifest, models)
        if not background:  # members run at the same time, so they divide the threads of one version
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
                check_member_hash(where, manifest, member, members[-1].sha256)
            release = once(opened.pop_all().close)
        try:
            with refusing(where, "cannot be loaded"):
                ensemble = Ensemble(manifest, [member.model for member in members], release)
        except BaseException:
            release()
            raise
        self_test(where, ensemble)
        return LoadedVersion(
            manifest,
            trusted.sha256,
            MemberVariants(tuple(member.variant for member in members)),
            "+".join(sorted({member.provider for member in members})),
            sum(member.threads for member in members),
            sum(member.runs for member in members),
            ensemble,
            release,
        )


def load_version(
    folder: Path, options: LoadOptions = DEFAULTS, report: Report = lambda _: None
) -> LoadedVersion:
    """Verify, load, warm up and check a version that shares nothing with others; see `Loader.load`.

    Raises:
        VersionRefused: the version failed; the message says where, why, and what to do.
    """
    return Loader(options, lambda model, version: report).load(folder)


def load_single(
    folder: Path, options: LoadOptions = DEFAULTS, report: Report = lambda _: None
) -> LoadedSingle:
    """Load a version as `load_version` does, for callers that need its network or tokenizer.

    Raises:
        VersionRefused: the version failed, or is an ensemble.
    """
    return Loader(options, lambda model, version: report).load_single(folder)


def _weights(manifest: Manifest) -> list[str]:
    """Return the names of the files that hold weights of a version's ONNX files, if any."""
    others = {manifest.tokenizer, *(variant.file for variant in manifest.variants), *UNLISTED}
    return [name for name in manifest.files if name not in others]
