"""Processes of our own run our module, wherever they are started."""

import subprocess
from pathlib import Path

import pytest

import app
from app.processes import own_process


def test_a_module_of_ours_is_found_from_any_folder(tmp_path: Path) -> None:
    command, environment = own_process("app.versions.loading.sandbox")
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, input=b"no order", capture_output=True, check=False
    )
    assert b"Invalid JSON" in done.stderr


def test_what_was_on_the_path_stays_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    _, environment = own_process("app.server.worker_count")
    ours = Path(app.__file__).parents[1]
    assert environment["PYTHONPATH"].split(":") == [str(ours), "/elsewhere"]
