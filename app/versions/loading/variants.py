"""A variant is one of a version's ONNX files; this module chooses the one that a runtime loads."""

from app.engine.runtimes.runtime import Runtime
from app.engine.runtimes.table import runtime_of
from app.errors import VersionRefused
from app.manifest import Manifest, Variant


def choose_variant(manifest: Manifest, runtime: Runtime, wanted: str = "auto") -> Variant:
    """Return the variant to load: the wanted precision, or for `auto` the first that is for the runtime.

    Raises:
        VersionRefused: the version has no such variant.
    """
    if wanted != "auto":
        fitting = [v for v in manifest.variants if v.precision == wanted]
    else:
        fitting = [v for v in manifest.variants if runtime.provider in v.providers]
        if not fitting and runtime.runs_every_file:
            fitting = list(manifest.variants)
    if not fitting:
        have = ", ".join(f"{v.precision} for {'/'.join(v.providers)}" for v in manifest.variants)
        raise VersionRefused(
            f"no variant {wanted!r} for {runtime.provider} (it has {have}); "
            "make one with nerve-train export, or set NERVE_VARIANT=auto"
        )
    return fitting[0]


def fp16_hint(manifest: Manifest, provider: str) -> str:
    """Say how to make an fp16 file if a version lacks one that its device prefers; else return no text."""
    recipe, runtime = manifest.lineage.get("recipe_file"), runtime_of(provider)
    has_one = any(variant.precision == "fp16" for variant in manifest.variants)
    if not recipe or has_one or not (runtime and runtime.prefers_fp16):
        return ""
    student = f" --student {manifest.name}" if manifest.lineage.get("student") else ""
    return (
        f"{manifest.name}/{manifest.version} runs on a GPU without an fp16 file; this makes a version that "
        f"has one: nerve-train export {recipe}{student} --set export.fp16=true"
    )
