"""`nerve` as a person runs it, in a process of its own."""

import json
import socket
from pathlib import Path

import onnxruntime
import pytest

from app import __version__
from app.engine.session import CUDA
from app.lifecycle.deployment import DeploymentStore
from tests.servers import nerve, serving
from tests.tiny import TEXT, edit_manifest, write_tiny_version

no_cuda = pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)


def test_version(models_dir: Path) -> None:
    assert nerve("version", models=models_dir).stdout == f"{__version__}\n"


def test_versions_are_activated_listed_and_rolled_back(models_dir: Path) -> None:
    write_tiny_version(models_dir, version=2)
    DeploymentStore(models_dir / ".state").edit("ner-en", lambda d: d.with_stable(1))
    done = nerve("models", "activate", "ner-en", "2", models=models_dir)
    assert (done.returncode, done.stdout) == (0, "ner-en: stable 2, previous 1\n")
    assert nerve("models", "list", models=models_dir).stdout == "ner-en/1\tprevious\nner-en/2\tstable\n"
    back = nerve("models", "rollback", "ner-en", models=models_dir)
    assert (back.returncode, back.stdout) == (0, "ner-en: stable 1, previous 2\n")
    state = json.loads((models_dir / ".state/ner-en.json").read_text())
    assert (state["stable"], state["previous"], state["generation"]) == (1, 2, 3)


def test_a_version_that_fails_is_refused_with_the_reason(models_dir: Path) -> None:
    edit_manifest(write_tiny_version(models_dir, version=2), format_version=9)
    done = nerve("models", "activate", "ner-en", "2", models=models_dir)
    assert done.returncode == 1
    assert "nerve: ner-en/2: manifest.json has format_version 9" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (models_dir / ".state/ner-en.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("activate", "ner-en", "9"), "ner-en has no version 9 (it has 1)"),
        (("activate", "nope", "1"), "no model 'nope'"),
        (("rollback", "ner-en"), "ner-en: no version served before"),
    ],
)
def test_what_cannot_be_done_is_a_message_and_no_traceback(
    models_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = nerve("models", *arguments, models=models_dir)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_torn_state_is_a_message(models_dir: Path) -> None:
    (models_dir / ".state").mkdir()
    (models_dir / ".state/ner-en.json").write_text("{")
    done = nerve("models", "list", models=models_dir)
    assert done.returncode == 1
    assert "ner-en.json: not a deployment" in done.stderr


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("port", "http", "nerve: cannot start: NERVE_PORT='http': "),
        pytest.param(
            "provider",
            "cuda",
            "nerve: cannot start: NERVE_PROVIDER=cuda, but onnxruntime-gpu",
            marks=no_cuda,
        ),
    ],
)
def test_a_server_that_cannot_start_says_why(
    models_dir: Path, setting: str, value: str, message: str
) -> None:
    done = nerve("serve", models=models_dir, **{setting: value})
    assert done.returncode != 0
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_two_builds_of_the_runtime_are_an_error(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for build in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"packages/{build}-1.0.dist-info"
        folder.mkdir(parents=True)
        name = build.replace("_", "-")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    done = nerve("serve", models=models_dir)
    assert done.returncode != 0
    assert "nerve: cannot start: onnxruntime and onnxruntime-gpu are both installed" in done.stderr


def test_a_port_that_is_taken_is_an_error(models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = nerve("serve", models=models_dir, port=taken.getsockname()[1])
    assert done.returncode != 0
    assert "address already in use" in done.stderr.lower()


@no_cuda
def test_the_cpu_stands_in_for_cuda_where_that_is_allowed(models_dir: Path, tmp_path: Path) -> None:
    settings = {"provider": "cuda", "allow_cpu_fallback": "true"}
    with serving(models_dir, tmp_path / "log", **settings) as server:
        assert server.ner(TEXT)["entities"]
        assert server.metric("nerve_model_info", provider="CPUExecutionProvider") == 1


def test_the_settings_reach_the_server(tmp_path: Path) -> None:
    models, state = tmp_path / "elsewhere", tmp_path / "state"
    write_tiny_version(models, "tiny", 4)
    settings = {"state_dir": state, "default_model": "tiny", "max_texts": 2, "max_text_chars": 50}
    with serving(models, tmp_path / "log", max_body_bytes=200, **settings) as server:
        answer = server.ner(TEXT)
        assert (answer["model"], answer["version"]) == ("tiny", 4)
        for body, code in (
            ({"texts": ["a"] * 3}, "too_many_texts"),
            ({"text": "a" * 51}, "text_too_long"),
            ({"text": "a" * 300}, "body_too_large"),
        ):
            refused = server.client.post("/ner", json=body)
            assert (refused.status_code, refused.json()["code"]) == (413, code)
    assert json.loads((state / "tiny.json").read_text())["stable"] == 4
    assert not (models / ".state").exists()
