import pytest

from app.engine.runtimes import table
from app.engine.runtimes.cpu import Cpu
from app.engine.runtimes.cuda import CUDA, Cuda
from app.engine.runtimes.session import CPU
from app.engine.runtimes.table import RUNTIMES, check_installation, choose_runtime, runtime_of
from app.errors import SettingsError
from tests.runtimes import no_cuda


@no_cuda
def test_cuda_without_cuda_is_refused_with_a_remedy() -> None:
    with pytest.raises(
        SettingsError, match=r"onnxruntime-gpu is missing.*NERVE_ALLOW_CPU_FALLBACK"
    ) as refused:
        choose_runtime("cuda")
    assert refused.value.message.startswith(
        "NERVE_PROVIDER=cuda, but onnxruntime-gpu is missing (available: "
    )


@no_cuda
def test_without_cuda_the_cpu_is_taken_where_that_is_allowed() -> None:
    assert choose_runtime("cuda", allow_cpu_fallback=True).provider == CPU
    assert choose_runtime("auto").provider == CPU


def test_the_cpu_is_taken_where_it_is_asked_for() -> None:
    assert choose_runtime("cpu").provider == CPU


def test_every_runtime_is_found_by_its_provider() -> None:
    assert [runtime_of(runtime.provider) for runtime in RUNTIMES] == list(RUNTIMES)
    assert runtime_of("AzureExecutionProvider") is None


def test_the_first_that_is_available_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    class There(Cuda):
        def available(self) -> bool:
            return True

    monkeypatch.setattr(table, "RUNTIMES", (There(), Cpu()))
    assert choose_runtime("auto").provider == CUDA


def test_two_builds_that_overwrite_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installation()
    monkeypatch.setattr(table, "distributions", lambda name: [name])
    with pytest.raises(SettingsError, match="onnxruntime and onnxruntime-gpu are both installed"):
        check_installation()
