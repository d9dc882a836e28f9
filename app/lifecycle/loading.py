"""Loading: from a version's folder to a predictor that has proved itself."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from app.engine.ensemble import EnsemblePredictor, check_members
from app.engine.predictor import AnyPredictor, Predictor
from app.engine.scheduler import BatchReport
from app.engine.session import CUDA, OnnxSession, Provider, available_cpus, choose_provider
from app.engine.tokenizer import Tokenizer
from app.errors import NerveError, VersionRefused
from app.manifest import MANIFEST, Manifest, Variant, file_hash, read_manifest, verify_files

Report = Callable[[BatchReport], None]
L = TypeVar("L", bound="LoadedVersion")


@dataclass(frozen=True)
class LoadOptions:
    """How versions are run on this machine; see the settings of the same names."""

    provider: Provider = "cpu"
    allow_cpu_fallback: bool = False
    variant: str = "auto"
    threads: int = 0
    max_queue_tokens: int = 1_000_000
    max_batch_tokens: int = 8_192


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
        threads: of its session; of an ensemble, of all members' sessions together.
        predictor: the caller's to close. An ensemble's owns its members'.
    """

    manifest: Manifest
    variant: Variant | MemberVariants
    provider: str
    threads: int
    predictor: AnyPredictor


@dataclass(frozen=True)
class LoadedSingle(LoadedVersion):
    """One network that passed every check."""

    variant: Variant
    predictor: Predictor


def load_version(
    folder: Path, options: LoadOptions = LoadOptions(), report: Report = lambda _: None
) -> LoadedVersion:
    """Verify, load, warm up and check a version against its golden texts.

    An ensemble's members are looked for beside it, in the same models folder.

    Raises:
        VersionRefused: it failed; the message says where, why, and what to do.
    """
    manifest = _verified(folder)
    load = _open_ensemble if manifest.kind == "ensemble" else _open_single
    return _proved(load(folder, manifest, options, report))


def load_single(
    folder: Path, options: LoadOptions = LoadOptions(), report: Report = lambda _: None
) -> LoadedSingle:
    """As `load_version`, for callers that need the network or the tokenizer itself.

    Raises:
        VersionRefused: it failed, or is an ensemble.
    """
    manifest = _verified(folder)
    if manifest.kind == "ensemble":
        raise VersionRefused(
            f"{_where(folder)}: is an ensemble, and one network is needed; name one of its members "
            f"({', '.join(manifest.members)}) in its place"
        )
    return _proved(_open_single(folder, manifest, options, report))


def _verified(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return manifest


def _proved(loaded: L) -> L:
    """Close a version that fails its golden texts."""
    where = f"{loaded.manifest.name}/{loaded.manifest.version}"
    try:
        check_golden(where, loaded.predictor)
    except BaseException as error:
        loaded.predictor.close()
        if isinstance(error, VersionRefused) or not isinstance(error, Exception):
            raise
        raise VersionRefused(f"{where}: a golden text fails: {error}; export it again") from error
    return loaded


def _open_single(folder: Path, manifest: Manifest, options: LoadOptions, report: Report) -> LoadedSingle:
    where = _where(folder)
    try:
        provider = choose_provider(options.provider, options.allow_cpu_fallback)
        variant = choose_variant(manifest, provider, options.variant)
        tokenizer = Tokenizer.from_file(folder / manifest.tokenizer, manifest.words)
        session = OnnxSession(folder / variant.file, provider, options.threads, output=manifest.output)
    except NerveError as error:
        raise VersionRefused(f"{where}: {error.message}") from error
    except Exception as error:  # whatever a damaged tokenizer or graph makes the libraries raise
        raise VersionRefused(f"{where}: cannot be loaded: {error}; export it again") from error
    if set(session.inputs) != set(manifest.inputs) or manifest.output not in session.outputs:
        raise VersionRefused(
            f"{where}: {variant.file} has inputs {sorted(session.inputs)} and outputs "
            f"{sorted(session.outputs)}, the manifest says {sorted(manifest.inputs)} and "
            f"{manifest.output}; export it again"
        )
    try:
        predictor = Predictor(
            manifest,
            tokenizer,
            session,
            options.max_queue_tokens,
            options.max_batch_tokens,
            report,
        )
    except Exception as error:
        raise VersionRefused(f"{where}: does not run: {error}; export it again") from error
    return LoadedSingle(manifest, variant, session.provider, session.threads, predictor)


def _open_ensemble(folder: Path, manifest: Manifest, options: LoadOptions, report: Report) -> LoadedVersion:
    where, models = _where(folder), folder.parent.parent
    manifests = [_read_member(where, manifest, models, member) for member in manifest.members]
    try:
        check_members(manifest, manifests)
    except VersionRefused as error:
        raise VersionRefused(f"{where}: {error.message}") from error
    # Members run at the same time: together they take the threads that one version would.
    threads = max(1, (options.threads or available_cpus()) // len(manifests))
    members: list[LoadedSingle] = []
    with ExitStack() as opened:
        for member in manifest.members:
            try:
                members.append(load_single(models / member, replace(options, threads=threads), report))
            except VersionRefused as error:
                raise VersionRefused(f"{where}: member {error.message}") from error
            opened.callback(members[-1].predictor.close)
        predictor = EnsemblePredictor(manifest, [member.predictor for member in members])
        opened.pop_all()  # from here on its own close does it
    return LoadedVersion(
        manifest,
        MemberVariants(tuple(member.variant for member in members)),
        "+".join(sorted({member.provider for member in members})),
        sum(member.threads for member in members),
        predictor,
    )


def _read_member(where: str, ensemble: Manifest, models: Path, member: str) -> Manifest:
    """The manifest of a member, which is the one that the ensemble was made with.

    Raises:
        VersionRefused: it is missing, unreadable, or another.
    """
    folder = models / member
    if not folder.is_dir():
        raise VersionRefused(
            f"{where}: member {member} is not there; copy its folder to {folder}, then the ensemble's again"
        )
    try:
        manifest = read_manifest(folder)
    except VersionRefused as error:
        raise VersionRefused(f"{where}: member {error.message}") from error
    found, meant = file_hash(folder / MANIFEST), ensemble.member_hashes[member]
    if found != meant:
        raise VersionRefused(
            f"{where}: member {member} is not the one it was made with: sha256 of {MANIFEST} differs "
            f"(got {found[:8]}…, want {meant[:8]}…); restore it, or package the ensemble again under a "
            "new version"
        )
    return manifest


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


def check_golden(where: str, predictor: AnyPredictor) -> None:
    """Run each golden text alone; spans and labels must be exactly the manifest's.

    Raises:
        VersionRefused: a text gave others.
    """
    for golden in predictor.manifest.golden:
        (prediction,) = predictor.predict([golden.text])
        found = [(e.start, e.end, e.label) for e in prediction.entities]
        meant = [(e.start, e.end, e.label) for e in golden.entities]
        if found != meant:
            raise VersionRefused(
                f"{where}: golden text {golden.text!r} gave {found}, must give {meant}; the file "
                "or this machine computes something else than what was exported"
            )


def _where(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
