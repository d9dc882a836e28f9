"""`/models`: a server whose versions come, are activated and are rolled back."""

import itertools
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bad_versions import BAD_FOLDERS
from tests.deployments import put, show, state
from tests.servers import Server, nerve, serving, until
from tests.tiny import TEXT, edit_manifest, write_tiny_version

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server, and its models folder."""
    folder = tmp_path_factory.mktemp("swapping")
    write_tiny_version(folder / "models")
    with serving(folder / "models", folder / "log") as running:
        yield running, folder / "models"


@pytest.fixture
def name(swapping: tuple[Server, Path]) -> str:
    """A model of the test's own: version 1 serves, in version 2 IBM is a place."""
    running, models = swapping
    name = f"model-{next(_numbers)}"
    write_tiny_version(models, name)
    until(lambda: show(running, name).get("serving") == 1)
    write_tiny_version(models, name, 2, ibm="LOC")
    until(lambda: state(running, name, 2) == "ready")
    return name


def test_every_model_is_listed(server: Server) -> None:
    answer = server.client.get("/models").json()
    assert answer["default"] == "ner-en"
    assert [model["name"] for model in answer["models"]] == ["ner-en", "other"]
    assert answer["models"][0] == show(server, "ner-en")


def test_a_model_says_what_it_is_and_runs_on(server: Server) -> None:
    model = show(server, "ner-en")
    assert (model["serving"], model["stable"], model["previous"]) == (1, 1, None)
    (version,) = model["versions"]
    assert version["state"] == "serving"
    assert version["labels"] == ["PER", "ORG", "LOC"]
    assert (version["precision"], version["provider"]) == ("fp32", "CPUExecutionProvider")
    assert (version["license"], version["languages"], version["threads"]) == ("Apache-2.0", ["en"], 1)


def test_the_deployment_is_shown(server: Server) -> None:
    answer = server.client.get("/models/ner-en/deployment")
    fields = {"stable": 1, "previous": None, "canary": None, "shadow": [], "generation": 1}
    assert (answer.json(), answer.headers["ETag"]) == (fields, '"1"')


def test_a_version_is_activated_and_rolled_back(swapping: tuple[Server, Path], name: str) -> None:
    server, _ = swapping
    answer = put(server, name, stable=2)
    changed = {"stable": 2, "previous": 1, "canary": None, "shadow": [], "generation": 2}
    assert (answer.status_code, answer.json()) == (200, changed | {"converged": True, "waiting_for": []})
    assert server.ner("IBM", model=name)["version"] == 2
    assert server.ner("IBM", model=name)["entities"][0]["label"] == "LOC"
    assert show(server, name)["serving"] == 2
    back = server.client.post(f"/models/{name}/rollback", json={})
    assert (back.status_code, back.headers["ETag"]) == (200, '"3"')
    assert (back.json()["stable"], back.json()["previous"], back.json()["generation"]) == (1, 2, 3)
    assert server.ner("IBM", model=name)["version"] == 1


def test_a_version_may_be_pinned_while_another_serves(swapping: tuple[Server, Path], name: str) -> None:
    server, _ = swapping
    assert server.ner("IBM", model=name, version=2)["entities"][0]["label"] == "LOC"
    assert server.ner("IBM", model=name)["entities"][0]["label"] == "ORG"
    assert (state(server, name, 1), state(server, name, 2)) == ("serving", "loaded")


def test_commands_and_state_file_reach_a_running_server(swapping: tuple[Server, Path], name: str) -> None:
    server, models = swapping
    done = nerve("models", "activate", name, "2", models=models)
    said = f"{name}: stable 2, previous 1\n1 of 1 running workers follow\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert server.ner("IBM", model=name)["version"] == 2
    done = nerve("models", "rollback", name, models=models)
    assert done.returncode == 0, done.stderr
    assert server.ner("IBM", model=name)["version"] == 1
    done = nerve("models", "list", models=models)
    assert f"{name}/1\tstable\n{name}/2\tprevious\n" in done.stdout


@pytest.mark.parametrize(
    "bad", ["no manifest", "a truncated file", "a wrong hash", "another format version"]
)
def test_a_bad_version_is_refused_and_the_old_one_serves(
    swapping: tuple[Server, Path], name: str, bad: str
) -> None:
    server, models = swapping
    spoil, _ = BAD_FOLDERS[bad]
    folder = write_tiny_version(models, name, 7)
    spoil(folder)
    until(lambda: state(server, name, 7) == "refused")
    answer = put(server, name, stable=7)
    assert (answer.status_code, answer.json()["code"]) == (409, "version_refused")
    reasons = {v["version"]: v["reason"] for v in show(server, name)["versions"]}
    assert answer.json()["error"] == reasons[7]
    assert reasons[7].startswith(f"{name}/7: ")
    pinned = server.client.post("/ner", json={"text": "IBM", "model": name, "version": 7})
    assert (pinned.status_code, pinned.json()["code"]) == (409, "version_refused")
    assert server.ner("IBM", model=name)["version"] == 1
    assert server.client.get(f"/models/{name}/deployment").json()["stable"] == 1

    shutil.rmtree(folder)
    write_tiny_version(models, name, 7)
    until(lambda: state(server, name, 7) == "ready")
    assert put(server, name, stable=7).status_code == 200
    assert server.ner("IBM", model=name)["version"] == 7


def test_swaps_fail_no_request_and_mix_no_versions(swapping: tuple[Server, Path], name: str) -> None:
    server, _ = swapping
    texts = [TEXT, "IBM " + "x " * 300, "IBM in Paris"]
    stop, failures, answered = threading.Event(), list[str](), {1: 0, 2: 0}

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/ner", json={"texts": texts, "model": name})
                if answer.status_code != 200:
                    failures.append(answer.text)
                    return
                body = answer.json()
                labels = {e["label"] for r in body["results"] for e in r["entities"] if e["text"] == "IBM"}
                if labels != {{1: "ORG", 2: "LOC"}[body["version"]]}:
                    failures.append(f"version {body['version']} answered {labels}")
                answered[body["version"]] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in (2, 1) * 4:
        before = dict(answered)
        assert put(server, name, stable=version).status_code == 200
        until(lambda v=version, b=before: answered[v] > b[v] + 4 or failures)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/models/nope", None, 404, "unknown_model"),
        ("GET", "/models/nope/deployment", None, 404, "unknown_model"),
        ("PUT", "/models/nope/deployment", '{"stable": 1}', 404, "unknown_model"),
        ("POST", "/models/nope/rollback", None, 404, "unknown_model"),
        ("PUT", "/models/ner-en/deployment", '{"stable": 9}', 404, "unknown_version"),
        ("PUT", "/models/ner-en/deployment", '{"stable": ', 400, "invalid_json"),
        ("PUT", "/models/ner-en/deployment", b'{"stable": "\xff"}', 400, "invalid_utf8"),
        ("PUT", "/models/ner-en/deployment", '{"stable": "1"}', 422, "invalid_request"),
        ("PUT", "/models/ner-en/deployment", '{"stable": 0}', 422, "invalid_request"),
        ("PUT", "/models/ner-en/deployment", '{"stable": 1, "live": 2}', 422, "invalid_request"),
        ("PUT", "/models/ner-en/deployment", '{"stable": 1, "previous": 2}', 422, "invalid_request"),
        ("PUT", "/models/ner-en/deployment", "{}", 422, "invalid_request"),
        ("PUT", "/models/ner-en/deployment", "", 400, "invalid_json"),
        ("POST", "/models/ner-en/rollback", None, 409, "no_previous_version"),
        ("DELETE", "/models/ner-en", None, 405, "method_not_allowed"),
        ("GET", "/models/ner-en/9", None, 404, "not_found"),
    ],
)
def test_an_error_has_its_status_its_code_and_an_id(
    server: Server, method: str, path: str, content: Any, status: int, code: str
) -> None:
    answer = server.client.request(
        method, path, content=content, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        ('{"stable": 1}', "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (" " * (9 * 1024 * 1024), "application/json", 413, "body_too_large"),
    ],
)
def test_a_change_is_read_as_carefully_as_a_text(
    server: Server, content: str, kind: str, status: int, code: str
) -> None:
    answer = server.client.put("/models/ner-en/deployment", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_model_that_serves_is_shown_though_its_folder_is_gone(
    swapping: tuple[Server, Path], name: str
) -> None:
    server, models = swapping
    (models / name).rename(models.parent / f"{name}-elsewhere")
    assert server.ner("IBM", model=name)["version"] == 1
    assert show(server, name)["serving"] == 1
    assert name in [model["name"] for model in server.client.get("/models").json()["models"]]
    (models.parent / f"{name}-elsewhere").rename(models / name)


def test_a_torn_state_is_reported_and_the_last_good_one_serves(
    swapping: tuple[Server, Path], name: str
) -> None:
    server, models = swapping
    path = models / f".state/{name}.json"
    good = path.read_text()
    path.write_text(good[: len(good) // 2])
    until(lambda: "not a deployment" in (show(server, name)["problem"] or ""))
    assert server.client.get("/models").status_code == 200
    answer = server.client.get(f"/models/{name}/deployment")
    assert (answer.status_code, answer.json()["code"]) == (500, "state_unreadable")
    assert server.ner("IBM", model=name)["version"] == 1
    until(lambda: f"{name}.json: not a deployment" in server.log.read_text())
    path.write_text(good)
    assert show(server, name)["serving"] == 1


def test_a_refused_version_of_the_default_model_leaves_the_server_ready(
    swapping: tuple[Server, Path],
) -> None:
    server, models = swapping
    edit_manifest(write_tiny_version(models, version=2), format_version=9)
    until(lambda: state(server, "ner-en", 2) == "refused")
    assert server.client.get("/readyz").status_code == 200
