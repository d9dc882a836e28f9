"""What goes wrong around a server, for real: killed processes, several servers, several operators."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from app.lifecycle.deployment import DeploymentStore
from tests.app.routes.test_models import put, show
from tests.servers import serving, until
from tests.tiny import write_tiny_version


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
            os.kill(random.choice(pids(models)), signal.SIGKILL)
            thread.join()
            assert done[0] in (0, 200)
            until(lambda: len(pids(models)) == 2)
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
from app.lifecycle.deployment import DeploymentStore
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
