"""Table: the runtimes there are, and the one that is used."""

from importlib.metadata import distributions

from app.engine.runtimes.cpu import Cpu
from app.engine.runtimes.cuda import Cuda
from app.engine.runtimes.runtime import Provider, Runtime
from app.errors import SettingsError

_FALLBACK = Cpu()

RUNTIMES: tuple[Runtime, ...] = (Cuda(), _FALLBACK)
"""Every runtime, the one that `auto` prefers first."""


def choose_runtime(wanted: Provider, allow_cpu_fallback: bool = False) -> Runtime:
    """The runtime to use.

    Args:
        wanted: its name, or `auto` for the first one that is available.
        allow_cpu_fallback: use the CPU where the wanted one is not available.

    Raises:
        SettingsError: the wanted one is not available, and no other may take its place.
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
    """The runtime of an execution provider, None where it is none of ours."""
    return next((runtime for runtime in RUNTIMES if runtime.provider == provider), None)


def check_installation() -> None:
    """Raises SettingsError: both builds of ONNX Runtime are installed, and one hides the other."""
    if all(any(distributions(name=build)) for build in ("onnxruntime", "onnxruntime-gpu")):
        raise SettingsError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "make a new environment with one of the extras cpu and gpu"
        )
