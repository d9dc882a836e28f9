"""Loading: from a version's folder to a predictor that has proved itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.engine.predictor import Predictor
from app.engine.scheduler import BatchReport
from app.engine.session import CUDA, OnnxSession, Provider, choose_provider
from app.engine.tokenizer import Tokenizer
from app.errors import NerveError, VersionRefused
from app.manifest import Manifest, Variant, read_manifest, verify_files


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
class LoadedVersion:
    """A version that passed every check, with what it runs on."""

    manifest: Manifest
    variant: Variant
    provider: str
    threads: int
    predictor: Predictor


def load_version(
    folder: Path,
    options: LoadOptions = LoadOptions(),
    report: Callable[[BatchReport], None] = lambda _: None,
) -> LoadedVersion:
    """Verify, load, warm up and check a version against its golden texts.

    Raises:
        VersionRefused: it failed; the message says where, why, and what to do.
    """
    where = f"{folder.parent.name}/{folder.name}"
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    if manifest.kind != "single":
        raise VersionRefused(f"{where}: kind {manifest.kind!r} is not served yet")
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
    try:
        check_golden(where, predictor)
    except BaseException as error:
        predictor.close()
        if isinstance(error, VersionRefused) or not isinstance(error, Exception):
            raise
        raise VersionRefused(f"{where}: a golden text fails: {error}; export it again") from error
    return LoadedVersion(manifest, variant, session.provider, session.threads, predictor)


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


def check_golden(where: str, predictor: Predictor) -> None:
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
