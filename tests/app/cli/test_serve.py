"""`nerve serve` as a person runs it, in a process of its own."""

import json
import socket
from pathlib import Path

import pytest

from tests.runtimes import no_cuda
from tests.servers import nerve, serving
from tests.tiny import TEXT, write_tiny_version


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
