"""`nerve` itself: what each command imports, and what does not."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from app import __version__, rendering
from app.cli.annotate import OffsetUnit
from tests.servers import environment, nerve


def test_version(models_dir: Path) -> None:
    assert nerve("version", models=models_dir).stdout == f"{__version__}\n"


def test_it_is_a_module_too(models_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == nerve("version", models=models_dir).stdout


IMPORTED = """
import sys
from app.cli.main import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(*{name.partition(".")[0] for name in sys.modules})
"""

WEB = {"fastapi", "uvicorn", "starlette"}
OUR_OWN = {"onnxruntime", "numpy", "tokenizers", "prometheus_client"}


def imported_by(models: Path, *arguments: str) -> set[str]:
    """The packages that a command has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments],
        env=environment(models),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments", [("version",), ("--help",), ("models", "--help"), ("annotate", "--help")]
)
def test_what_only_tells_imports_nothing_that_takes_time(
    models_dir: Path, arguments: tuple[str, ...]
) -> None:
    assert not imported_by(models_dir, *arguments) & (WEB | OUR_OWN)


def test_to_look_after_versions_no_web_server_is_imported(models_dir: Path) -> None:
    assert not imported_by(models_dir, "models", "list") & WEB


def test_to_annotate_a_corpus_no_web_server_is_imported(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("IBM\n")
    arguments = ("annotate", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.jsonl"))
    assert not imported_by(models_dir, *arguments) & WEB
    assert (tmp_path / "out.jsonl").exists()


def test_offsets_count_what_the_api_lets_them_count() -> None:
    assert get_args(OffsetUnit) == get_args(rendering.OffsetUnit)
