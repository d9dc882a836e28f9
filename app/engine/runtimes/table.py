"""The table lists all runtimes, and chooses the one to use."""

from importlib.metadata import distributions

from app.engine.runtimes.cpu import Cpu
from app.engine.runtimes.cuda import Cuda
from app.engine.runtimes.runtime import Provider, Runtime
from app.errors import SettingsError

_FALLBACK = Cpu()

RUNTIMES: tuple[Runtime, ...] = (Cuda(), _FALLBACK)
"""These are all runtimes, in the order in which `auto` tries them."""


def choose_runtime(wanted: Provider, allow_cpu_fallback: bool = False) -> Runtime:
    """Return the runtime to use.

    Args:
        wanted: name of a runtime, or `auto` for the first one that is available.
        allow_cpu_fallback: whether to use the CPU if the wanted runtime is not available.

    Raises:
        SettingsError: the wanted runtime is not available, and the CPU may not take its place.
    """
    if wanted == "auto":
        return next(runtime for runtime in RUNTIMES if runtime.available())
    runtime = next(runtime for runtime in RUNTIMES if runtime.name == wanted)
    if runtime.available():
        return runtime
    if allow_cpu_fallback:
        return _FALLBACK
    raise SettingsError(
        f"NERVE_PROVIDER={wanted}, but {runtime.missing()}, or set NERVE_ALLOW_CPU_FALLBACK=true"
    )


def runtime_of(provider: str) -> Runtime | None:
    """Return the runtime of an execution provider, or None if none uses that provider."""
    return next((runtime for runtime in RUNTIMES if runtime.provider == provider), None)


def check_installation() -> None:
    """Raise SettingsError if both builds of ONNX Runtime are installed, because one hides the other."""
    if all(any(distributions(name=build)) for build in ("onnxruntime", "onnxruntime-gpu")):
        raise SettingsError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "make a new environment with one of the extras cpu and gpu"
        )
