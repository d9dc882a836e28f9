"""What goes wrong around a server, for real: killed processes, several servers, several operators."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil

from app.versions.rollout.store import DeploymentStore
from tests.deployments import put, show, state
from tests.servers import nerve, serving, until
from tests.slow_graphs import endless
from tests.tiny import POISON, write_tiny_version


def two_versions(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    write_tiny_version(models)
    write_tiny_version(models, version=2, ibm="LOC")
    DeploymentStore(models / ".state").edit("ner-en", lambda d: d.with_stable(1))
    return models


def pids(models: Path) -> list[int]:
    found = []
    for path in (models / ".state/workers").glob("*.json"):
        try:
            found.append(json.loads(path.read_text())["pid"])
        except FileNotFoundError:
            continue
    return found


def test_servers_on_one_state_follow_one_another(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "one") as one, serving(models, tmp_path / "two") as two:
        until(lambda: len(pids(models)) == 2)
        for server, version in ((one, 2), (two, 1), (one, 2)):
            assert put(server, "ner-en", stable=version).json()["converged"]
            assert server.ner("IBM")["version"] == version
            for other in (one, two):
                until(lambda other=other, v=version: other.ner("IBM")["version"] == v)


def test_a_worker_that_is_killed_in_mid_swap_leaves_the_others_and_the_state_whole(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log", workers=2, converge_timeout=60) as server:
        until(lambda: len(pids(models)) == 2)
        wanted = 1
        for _ in range(3):
            wanted = 3 - wanted
            done = list[int]()

            def change(version: int = wanted, done: list[int] = done) -> None:
                try:
                    with httpx.Client(base_url=server.url, timeout=120) as client:
                        answer = client.put("/models/ner-en/deployment", json={"stable": version})
                        done.append(answer.status_code)
                except httpx.TransportError:  # it was the one that was asked
                    done.append(0)

            thread = threading.Thread(target=change)
            thread.start()
            time.sleep(random.uniform(0, 0.1))  # wherever it is by then
            os.kill(random.choice(server.pids), signal.SIGKILL)
            thread.join()
            assert done[0] in (0, 200)
            until(lambda: len(server.pids) == 2)
            stable = json.loads((models / ".state/ner-en.json").read_text())["stable"]
            if done[0]:
                assert stable == wanted
            wanted = stable
            for _ in range(8):
                until(lambda v=stable: _version_of_a_fresh_connection(server.url) == v)


def _version_of_a_fresh_connection(url: str) -> int:
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            return int(client.post("/ner", json={"text": "IBM"}).json().get("version", 0))
    except httpx.TransportError:  # its worker has just been killed
        return 0


def test_a_writer_that_is_killed_leaves_a_state_that_can_be_read(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from app.versions.rollout.store import DeploymentStore
store = DeploymentStore(Path(sys.argv[1]))
print("writing", flush=True)
while True:
    store.edit("ner-en", lambda d: d.with_stable((d.stable or 0) % 9 + 1))
"""
    store = DeploymentStore(tmp_path)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout
        assert writer.stdout.readline() == b"writing\n"
        time.sleep(random.uniform(0.02, 0.2))
        writer.kill()
        writer.wait()
        found = store.read("ner-en")
        assert found is None or found.generation > 0
        after = store.edit("ner-en", lambda d: d.with_stable(20))
        assert store.read("ner-en") == after
        assert store.history("ner-en")[-1].deployment == after
    history = store.history("ner-en")
    for before, change in itertools.pairwise(history):  # what never happened is set right by the next
        if change.action != "found":
            assert change.deployment.generation == before.deployment.generation + 1


def test_a_server_that_starts_with_a_torn_state_serves_what_was_deployed_last(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    write_tiny_version(models, version=3)
    path = models / ".state/ner-en.json"
    path.write_text(path.read_text()[:20])
    with serving(models, tmp_path / "log") as server:
        assert server.ner("IBM")["version"] == 1
        assert "not a deployment" in show(server, "ner-en")["problem"]
        assert path.read_text() == path.read_text()[:20]


def test_an_endless_version_keeps_no_good_one_from_serving(tmp_path: Path) -> None:
    """It is the newest, nothing says what should serve, and then it is named by hand."""
    models = tmp_path / "models"
    write_tiny_version(models)
    write_tiny_version(models, version=2)
    write_tiny_version(models, version=3, graph=endless())
    with serving(models, tmp_path / "log", load_timeout=4) as server:
        assert server.ner("IBM")["version"] == 2
        until(lambda: state(server, "ner-en", 3) == "refused")
        store = DeploymentStore(models / ".state")
        by_hand = {"stable": 2, "canary": {"version": 3, "percent": 50}, "generation": 2}
        store.path("ner-en").write_text(json.dumps(by_hand))
        until(
            lambda: "should try out 3: ner-en/3: took longer" in (show(server, "ner-en")["problem"] or "")
        )
        pinned = server.client.post("/ner", json={"text": "IBM", "version": 3})
        assert (pinned.status_code, pinned.json()["code"]) == (409, "version_refused")
        assert put(server, "ner-en", stable=1, canary=None).status_code == 200
        assert server.ner("IBM")["version"] == 1


def test_a_sandbox_load_that_takes_long_holds_up_nobody_else(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log", load_timeout=200) as server:
        write_tiny_version(models, version=3, graph=endless())
        until(lambda: "app.versions.loading.sandbox" in _children(server.process.pid))
        assert put(server, "ner-en", stable=2).status_code == 200
        done = nerve("models", "rollback", "ner-en", models=models)
        assert (done.returncode, server.ner("IBM")["version"]) == (0, 1), done.stderr
        assert "app.versions.loading.sandbox" in _children(server.process.pid)


def _children(pid: int) -> str:
    return " ".join(" ".join(child.cmdline()) for child in psutil.Process(pid).children())


def test_what_fails_and_cannot_be_replaced_gets_a_new_session_once(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log") as server:
        put(server, "ner-en", stable=2)
        shutil.rmtree(models / "ner-en/1")
        for _ in range(3):
            assert server.client.post("/ner", json={"text": POISON}).status_code == 500
        until(lambda: server.metric("nerve_model_taken_out_total", version="2") == 1)
        until(lambda: server.ner("IBM")["version"] == 2)
        taken_out = server.metric("nerve_model_taken_out_total")
        for _ in range(5):
            server.ner("IBM")
        assert server.metric("nerve_model_taken_out_total") == taken_out
        assert server.log.read_text().count("failed on three batches in a row while it served\n") == 1


def test_what_fails_is_replaced_though_the_state_cannot_be_written(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log") as server:
        put(server, "ner-en", stable=2)
        (models / ".state/.ner-en.lock").unlink(missing_ok=True)
        (models / ".state/.ner-en.lock").mkdir()
        for _ in range(3):
            assert server.client.post("/ner", json={"text": POISON}).status_code == 500
        until(lambda: "cannot be written down" in (show(server, "ner-en")["problem"] or ""))
        until(lambda: server.metric("nerve_model_taken_out_total", version="2") == 1)
        assert server.ner("IBM")["version"] == 2


def test_a_state_that_was_removed_goes_on_counting(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log") as server:
        assert put(server, "ner-en", stable=2).json()["generation"] == 2
        (models / ".state/ner-en.json").unlink()
        assert put(server, "ner-en", stable=1).json()["generation"] in (3, 4)  # 3 wrote down what served


def test_an_abort_that_comes_late_does_not_undo_a_promotion(tmp_path: Path) -> None:
    store = DeploymentStore(tmp_path)
    store.edit("ner-en", lambda d: d.with_stable(1))
    store.edit("ner-en", lambda d: d.with_stable(4))  # promoted meanwhile
    assert store.edit("ner-en", lambda d: d.without_canary(4)).stable == 4
