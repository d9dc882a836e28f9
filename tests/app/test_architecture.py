"""What may know what: the server is small because these hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import app

PACKAGE = Path(app.__file__).parent


def modules(folder: str = "") -> list[str]:
    paths = sorted((PACKAGE / folder).rglob("*.py"))
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def loaded_by(names: list[str]) -> set[str]:
    """Top-level and full names of all modules that importing these brings in."""
    program = f"import sys\nfor name in {names!r}: __import__(name)\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = run.stdout.split()
    return {*found, *(name.partition(".")[0] for name in found)}


def test_the_server_imports_nothing_of_training() -> None:
    assert not loaded_by(modules()) & {"torch", "transformers", "optimum", "training", "onnx", "accelerate"}


def test_the_engine_knows_no_http() -> None:
    found = loaded_by(modules("engine"))
    assert not found & {"fastapi", "starlette", "uvicorn", "app.api", "app.versions", "app.main"}


@pytest.mark.parametrize("module", modules("api"))
def test_api_knows_no_onnx(module: str) -> None:
    source = (PACKAGE.parent / (module.replace(".", "/") + ".py")).with_suffix(".py")
    text = source.read_text() if source.exists() else (PACKAGE / "api/__init__.py").read_text()
    assert "onnxruntime" not in text
    assert "tokenizers" not in text


def test_versions_know_no_http() -> None:
    assert not loaded_by(modules("versions")) & {
        "fastapi",
        "starlette",
        "uvicorn",
        "app.api",
        "app.main",
    }


def test_annotating_and_rendering_know_no_protocol() -> None:
    found = loaded_by(["app.annotate", "app.rendering"])
    assert not found & {"fastapi", "starlette", "uvicorn", "app.api", "app.bulk", "app.main", "app.server"}


def test_rendering_and_metrics_know_no_versions() -> None:
    found = loaded_by(["app.metrics", "app.rendering"])
    assert not found & {"app.annotate", "app.versions", "app.server", "app.engine.model"}


def test_a_dialect_knows_nothing_behind_the_wire() -> None:
    for module in modules("api/dialects"):
        source = PACKAGE.parent / (module.replace(".", "/") + ".py")
        if source.exists():
            assert not re.search(
                r"app\.(versions|metrics|engine\.(?!decoding\.entities))", source.read_text()
            )


def test_bulk_knows_no_server_and_needs_no_parquet() -> None:
    found = loaded_by(modules("bulk"))
    assert not found & {
        "fastapi",
        "starlette",
        "uvicorn",
        "app.api",
        "app.main",
        "app.server.process",
        "pyarrow",
    }
