"""Whole runs, by the command a user types."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.manifest import read_manifest
from app.versions.loading.loader import load_version
from tests.training.toy import write_recipe
from training.cli import main

ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": os.getcwd(),
    "CUDA_VISIBLE_DEVICES": "",
}
TEXT = "Greta Huber works for Cortex in Gotha ."
FOUND = [("Greta Huber", "PER"), ("Cortex", "ORG"), ("Gotha", "LOC")]


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    returncode: int
    stdout: str
    stderr: str


@contextmanager
def called_with(*arguments: str) -> Iterator[None]:
    before, sys.argv = sys.argv, ["nerve-train", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def nerve_train(*arguments: str, cwd: Path) -> Done:
    """Run the command in this process, which has loaded torch already."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), called_with(*arguments), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
    message = code if isinstance(code, str) else ""
    return Done(int(bool(code)), out.getvalue(), err.getvalue() + message)


@pytest.fixture(scope="module")
def run(tuned: Path) -> Path:
    """The folder of a finished `nerve-train run`; its versions are `models/toy-cnn/1` and `toy-short/1`."""
    done = nerve_train("run", "toy.toml", cwd=tuned)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "published models/toy-cnn/1" in done.stdout
    assert "published models/toy-short/1" in done.stdout
    assert "epoch 2: dev F1" in done.stdout  # of a student; the teachers were there
    assert "| toy-test | all |" in done.stdout
    return tuned


@pytest.fixture(scope="module")
def plain(run: Path) -> Path:
    """The same folder, where the recipe without its students was run too: `models/toy/1`."""
    done = nerve_train("run", "toy.toml", "--set", "students=[]", cwd=run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "published models/toy/1" in done.stdout
    assert "epoch" not in done.stdout  # the teachers are its networks
    return run


def found_by(folder: Path) -> list[tuple[str, str]]:
    loaded = load_version(folder)
    try:
        (prediction,) = loaded.model.predict([TEXT])
    finally:
        loaded.model.close()
    return [(TEXT[e.start : e.end], e.label) for e in prediction.entities]


@pytest.mark.parametrize(
    "version", ["models/toy-cnn/1", "models/toy-short/1", "run/models/toy-teacher-1/1", "models/toy/1"]
)
def test_a_run_publishes_versions_that_serve(plain: Path, version: str) -> None:
    assert found_by(plain / version) == FOUND
    manifest = read_manifest(plain / version)
    assert manifest.golden
    assert [variant.precision for variant in manifest.variants] in (["int8"], ["fp32"])
    assert manifest.lineage["recipe"]["name"] == "toy"


def test_what_students_are_compared_with_stands_beside(run: Path) -> None:
    beside = sorted(folder.name for folder in (run / "run/models").iterdir() if folder.name[0] != ".")
    assert beside == ["toy-cnn-alone", "toy-teacher", "toy-teacher-1", "toy-teacher-2"]
    teacher = read_manifest(run / "run/models/toy-teacher/1")
    assert (teacher.kind, teacher.method) == ("ensemble", "mean")
    assert teacher.members == ("toy-teacher-1/1", "toy-teacher-2/1")
    assert found_by(run / "run/models/toy-teacher/1") == FOUND
    assert not (run / "models/toy-teacher-1").exists()


@pytest.mark.parametrize("name", ["toy-cnn", "toy-short", "toy"])
def test_what_the_manifest_says_is_what_evaluate_prints(plain: Path, name: str) -> None:
    metrics = read_manifest(plain / f"models/{name}/1").metrics
    for split in ("test", "dev"):
        printed = nerve_train(
            "evaluate", f"models/{name}/1", "toy.toml", "--json", "--split", split, cwd=plain
        )
        assert json.loads(printed.stdout) == metrics[split], printed.stderr
    assert metrics["test"]["average_f1"] > 90
    card = (plain / f"models/{name}/1/README.md").read_text()
    assert f"{metrics['test']['average_f1']:.2f}" in card


def test_the_manifest_says_what_was_chosen_and_calibrated(run: Path) -> None:
    manifest = read_manifest(run / "models/toy-cnn/1")
    chosen, calibration = manifest.metrics["chosen"], manifest.metrics["calibration"]
    assert set(chosen["considered"]) == {"int8", "fp32"}
    assert manifest.variants[0].precision in fastest_within(chosen["considered"], chosen["gate"])
    assert chosen["machine"]["cores"] >= 1
    assert calibration["temperature"] == manifest.temperature
    assert calibration["thresholds"] == manifest.thresholds
    epochs = manifest.lineage["epochs"]
    assert list(epochs) == ["transfer", "labelled"]
    assert len(epochs["transfer"]) == 3


def fastest_within(considered: Mapping[str, Mapping[str, float]], gate: float) -> list[str]:
    """The precision that should be shipped."""
    least = considered["fp32"]["dev_average_f1"] - gate
    passing = [name for name, one in considered.items() if one["dev_average_f1"] >= least]
    most = max(considered[name]["tokens_per_second"] for name in passing)
    return [name for name in passing if considered[name]["tokens_per_second"] == most]


def test_a_second_export_publishes_the_next_number(plain: Path) -> None:
    done = nerve_train("export", "toy.toml", "--student", "toy-cnn", cwd=plain)
    assert "published models/toy-cnn/2" in done.stdout, done.stderr
    assert "toy-short" not in done.stdout
    taken = nerve_train("export", "toy.toml", "--set", "students=[]", "--version", "1", cwd=plain)
    assert taken.returncode != 0
    assert "versions never change" in taken.stderr


def test_another_precision_is_exported_when_it_is_asked_for(plain: Path) -> None:
    shutil.rmtree(plain / "run/students/toy-cnn/export")
    for precision in ("fp32", "int8"):
        change = f"export.precision={precision}"
        done = nerve_train(
            "export", "toy.toml", "--student", "toy-cnn", "--models", "more", "--set", change, cwd=plain
        )
        assert done.returncode == 0, done.stderr
        version = max((plain / "more/toy-cnn").iterdir())
        assert [variant.precision for variant in read_manifest(version).variants] == [precision]


def test_scores_stay_as_they_are_when_nobody_wants_them_calibrated(plain: Path) -> None:
    done = nerve_train(
        *("export", "toy.toml", "--set", "students=[]", "--models", "raw"),
        *("--set", "export.calibrate=false"),
        cwd=plain,
    )
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(plain / "raw/toy/1")
    assert (manifest.temperature, manifest.thresholds) == (1.0, {})


def test_data_with_problems_is_not_trained_on(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    done = nerve_train("run", "toy.toml", "--set", 'labels=["PER", "ORG", "LOC", "SHIP"]', cwd=tmp_path)
    assert done.returncode != 0
    assert "no training corpus has a SHIP" in done.stderr
    assert not (tmp_path / "run/teacher").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [("finetune.lr=1e-3", "stage"), ('scheme="IOB2"', "scheme"), ("encoder.dropout=0.3", "encoder")],
)
def test_a_run_folder_refuses_another_recipe(tuned: Path, change: str, named: str) -> None:
    done = nerve_train("finetune", "toy.toml", "--set", change, cwd=tuned)
    assert done.returncode != 0
    assert f"was made with other {named} (see made_of.json)" in done.stderr


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run", "models"))
    arguments = ["finetune", "toy.toml", "--set", "finetune.seeds=[1]", "--set", "output=again"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        cwd=tmp_path,
    )
    again = tmp_path / "again/teacher/seed-1"
    while not (again / "state/progress.json").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (again / "done").exists()
    early = nerve_train("export", *arguments[1:], "--set", "students=[]", cwd=tmp_path)
    assert early.returncode != 0
    assert "its training is not finished" in early.stderr

    done = nerve_train(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = tuned / "run/teacher/seed-1"
    for file in ("checkpoint/model.safetensors", "state/model.safetensors"):
        resumed, expected = load_file(again / file), load_file(whole / file)
        assert all(torch.equal(resumed[name], expected[name]) for name in expected), file
    histories = [(folder / "state/history.json").read_text() for folder in (again, whole)]
    assert histories[0] == histories[1]


def test_two_processes_share_every_step(toy: Path, tmp_path: Path) -> None:
    """Their batches together are those of one process that accumulates two."""
    same = ["encoder.dropout=0.0", "finetune.epochs=1", "finetune.average=0", "finetune.precision=no"]
    shared = tmp_path / "two"
    common = ["finetune", str(toy / "toy.toml"), *(part for one in same for part in ("--set", one))]
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
        *("--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", "-m", "training.cli"),
    ]
    done = subprocess.run(
        [*launch, *common, "--set", f"output={shared}"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"ACCELERATE_USE_CPU": "true"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((shared / "teacher/seed-1/state").glob("random_states_*.pkl"))) == 2
    weights = [load_file(shared / "teacher/seed-1/checkpoint/model.safetensors")]
    for accumulate in (2, 1):
        folder = tmp_path / f"accumulate-{accumulate}"
        changes = ("--set", f"finetune.accumulate={accumulate}", "--set", f"output={folder}")
        alone = nerve_train(*common, *changes, cwd=tmp_path)
        assert alone.returncode == 0, alone.stderr
        weights.append(load_file(folder / "teacher/seed-1/checkpoint/model.safetensors"))
    two, accumulated, lonely = (flat(one) for one in weights)
    assert (two - accumulated).norm() < 0.02 * (two - lonely).norm()


def flat(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """All weights except the bias of attention's keys, whose gradient is only rounding errors."""
    return torch.cat([value.flatten() for name, value in weights.items() if "key.bias" not in name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.toml"), "nowhere.toml: no such recipe"),
        (("run", "toy.toml", "--set", "finetune.lr=-1"), "finetune.lr"),
        (("run", "toy.toml", "--set", "finetune.speed=1"), "finetune.speed"),
        (("check-data", "toy.toml", "--set", "data_root=nowhere"), "no such file"),
        (("evaluate", "models/toy/9", "toy.toml"), "manifest.json is missing"),
        (("run", "toy.toml", "--student", "nobody"), "no student nobody; it has toy-cnn, toy-short"),
        (
            ("distill", "toy.toml", "--set", "finetune.seeds=[1, 9]"),
            "run/teacher/seed-9/checkpoint: not there; nerve-train finetune toy.toml trains it",
        ),
        (
            ("distill", "toy.toml", "--set", 'students=[{name = "a", architecture = "oracle"}]'),
            "architecture 'oracle' is unknown; choose among transformer, bilstm, cnn",
        ),
        (
            (
                "distill",
                "toy.toml",
                "--set",
                'students=[{name = "a", architecture = "cnn", size = {x = 1}}]',
            ),
            "student size x: a cnn has no such measure",
        ),
    ],
)
def test_mistakes_are_messages(tuned: Path, arguments: tuple[str, ...], message: str) -> None:
    done = nerve_train(*arguments, cwd=tuned)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.count("nerve-train: ") == 1
