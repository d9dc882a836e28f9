"""Whole runs, by the command a user types."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from app.lifecycle.loading import load_version
from tests.training.toy import write_recipe

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def nerve_train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.cli", *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"PYTHONPATH": os.getcwd()},
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `nerve-train run`; its version is `models/toy/1`."""
    folder = tmp_path_factory.mktemp("toy")
    write_recipe(folder)
    done = nerve_train("run", "toy.toml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "published models/toy/1" in done.stdout
    assert "| toy-test | all |" in done.stdout
    return folder


def test_a_run_publishes_a_version_that_serves(run: Path) -> None:
    loaded = load_version(run / "models/toy/1")
    text = "Greta Huber works for Cortex in Gotha ."
    (prediction,) = loaded.predictor.predict([text])
    loaded.predictor.close()
    found = [(text[e.start : e.end], e.label) for e in prediction.entities]
    assert found == [("Greta Huber", "PER"), ("Cortex", "ORG"), ("Gotha", "LOC")]
    assert [golden.text for golden in loaded.manifest.golden]
    assert [variant.precision for variant in loaded.manifest.variants] == ["int8"]


def test_what_the_manifest_says_is_what_evaluate_prints(run: Path) -> None:
    manifest = json.loads((run / "models/toy/1/manifest.json").read_text())
    printed = nerve_train("evaluate", "models/toy/1", "toy.toml", "--json", cwd=run)
    assert json.loads(printed.stdout) == manifest["metrics"]["test"]
    assert manifest["metrics"]["test"]["average_f1"] > 95
    card = (run / "models/toy/1/README.md").read_text()
    assert f"{manifest['metrics']['test']['average_f1']:.2f}" in card


def test_a_second_export_publishes_the_next_number(run: Path) -> None:
    done = nerve_train("export", "toy.toml", cwd=run)
    assert "published models/toy/2" in done.stdout, done.stderr
    taken = nerve_train("export", "toy.toml", "--version", "1", cwd=run)
    assert taken.returncode != 0
    assert "versions never change" in taken.stderr


def test_another_precision_is_exported_when_it_is_asked_for(run: Path) -> None:
    shutil.rmtree(run / "run/export", ignore_errors=True)
    for precision in ("fp32", "int8"):
        done = nerve_train("export", "toy.toml", "--set", f"export.precision={precision}", cwd=run)
        assert done.returncode == 0, done.stderr


def test_data_with_problems_is_not_trained_on(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    done = nerve_train("run", "toy.toml", "--set", 'labels=["PER", "ORG", "LOC", "SHIP"]', cwd=tmp_path)
    assert done.returncode != 0
    assert "no training corpus has a SHIP" in done.stderr
    assert not (tmp_path / "run/finetune").exists()


def test_a_run_folder_refuses_another_recipe(run: Path) -> None:
    done = nerve_train("finetune", "toy.toml", "--set", "finetune.lr=1e-3", cwd=run)
    assert done.returncode != 0
    assert "holds a run with other finetune" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    command = [sys.executable, "-m", "training.cli", "finetune", "toy.toml"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT | {"PYTHONPATH": os.getcwd()},
        cwd=tmp_path,
    )
    state = tmp_path / "run/finetune/state"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(json.loads((state / "history.json").read_text())) < 3
    early = nerve_train("export", "toy.toml", cwd=tmp_path)
    assert early.returncode != 0
    assert "its fine-tuning is not finished" in early.stderr

    done = nerve_train("finetune", "toy.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for file in ("checkpoint/model.safetensors", "state/model.safetensors"):
        resumed, whole = (load_file(folder / "run/finetune" / file) for folder in (tmp_path, run))
        assert all(bool((resumed[name] == whole[name]).all()) for name in whole), file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.toml"), "nowhere.toml: no such recipe"),
        (("run", "toy.toml", "--set", "finetune.lr=-1"), "finetune.lr"),
        (("run", "toy.toml", "--set", "finetune.speed=1"), "finetune.speed"),
        (("check-data", "toy.toml", "--set", "data_root=nowhere"), "no such file"),
        (("evaluate", "models/toy/9", "toy.toml"), "manifest.json is missing"),
    ],
)
def test_mistakes_are_messages(run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = nerve_train(*arguments, cwd=run)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
