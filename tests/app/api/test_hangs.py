"""Sessions that hang, checks that are killed, and versions that never load, in real servers."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from app.versions.rollout.desired import Deployment
from app.versions.rollout.store import DeploymentStore
from tests.deployments import put, show, state
from tests.servers import Server, serving, until
from tests.slow_graphs import HANG, endless, hanging, stubborn
from tests.tiny import write_tiny_version


def asked(server: Server, text: str) -> int:
    """The status of the answer to a text, on a connection of its own."""
    return httpx.post(f"{server.url}/ner", json={"text": text}, timeout=120).status_code


def test_a_session_that_hangs_is_given_up_and_the_version_before_comes_back(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_version(models)
    write_tiny_version(models, version=2, graph=hanging())
    DeploymentStore(models / ".state").edit("ner-en", lambda d: d.with_stable(1).with_stable(2))
    with serving(models, tmp_path / "log", batch_timeout=1) as server:
        with ThreadPoolExecutor(4) as callers:
            hung = [callers.submit(asked, server, HANG) for _ in range(4)]
            assert all(one.result() in (500, 503) for one in hung)
        until(lambda: show(server, "ner-en")["serving"] == 1)
        assert server.ner("IBM")["version"] == 1
        assert state(server, "ner-en", 2) == "refused"
        last = server.client.get("/models/ner-en/history").json()[-1]
        assert (last["action"], last["by"]) == (
            "take out",
            "nerve: ner-en/2 hung on a batch while it served",
        )
        assert HANG not in server.log.read_text()


def test_operators_and_the_end_do_not_wait_for_a_session_that_hangs(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("ner-en", "other"):
        write_tiny_version(models, name)
    write_tiny_version(models, version=2, graph=stubborn())
    write_tiny_version(models, "other", 2)
    DeploymentStore(models / ".state").edit("ner-en", lambda d: d.with_stable(1).with_stable(2))
    # The watchdog must not be first: it would take the version out before the operator does.
    with serving(models, tmp_path / "log", batch_timeout=20, request_timeout=5) as server:
        until(lambda: show(server, "other").get("serving"))
        caller = threading.Thread(target=asked, args=(server, HANG))
        caller.start()
        until(lambda: server.metric("nerve_requests_in_flight") == 2)  # that one, and /metrics
        assert put(server, "other", stable=2).status_code == 200
        answer = server.client.post("/models/ner-en/rollback", json={})
        assert (answer.status_code, answer.json()["stable"]) == (200, 1)
        assert server.ner("IBM")["version"] == 1
        caller.join()
        server.process.terminate()
        server.process.wait(60)


def test_one_that_never_loads_holds_up_only_who_asked_for_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("a-slow-one", "b-slow-one", "c-slow-one"):
        write_tiny_version(models, name, graph=endless())
    write_tiny_version(models)
    write_tiny_version(models, "z-good-one")
    with serving(models, tmp_path / "log", load_timeout=120) as server:
        until(lambda: show(server, "z-good-one").get("serving") == 1)
        write_tiny_version(models, version=2)
        with ThreadPoolExecutor(12) as operators:
            slow = [operators.submit(put, server, "a-slow-one", stable=1) for _ in range(8)]
            pins = [operators.submit(_pinned, server) for _ in range(4)]
            assert put(server, "ner-en", stable=2).status_code == 200
            assert server.ner("IBM")["version"] == 2
            assert not any(one.done() for one in (*slow, *pins))
            assert show(server, "a-slow-one")["serving"] is None
            server.process.kill()  # nobody waits for them any more
            assert all(isinstance(one.exception(), httpx.TransportError) for one in slow)


def _pinned(server: Server) -> httpx.Response:
    return httpx.post(
        f"{server.url}/ner", json={"text": "IBM", "model": "b-slow-one", "version": 1}, timeout=120
    )


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_check_that_is_killed_lets_no_older_version_be_written_down(
    tmp_path: Path, sent: signal.Signals
) -> None:
    """SIGKILL comes to the check alone, as from the kernel that lacks memory; the others to the group."""
    models = tmp_path / "models"
    write_tiny_version(models)
    write_tiny_version(models, version=2)
    store = DeploymentStore(models / ".state")
    with serving(models, tmp_path / "log", ready=False) as server:
        until(lambda: _checks(server.process.pid))
        if sent == signal.SIGKILL:
            os.kill(_checks(server.process.pid)[0], sent)
            until(lambda: store.read("ner-en"))
        else:
            os.killpg(server.process.pid, sent)
            server.process.wait(60)
    assert all(change.deployment.stable == 2 for change in store.history("ner-en"))
    with serving(models, tmp_path / "again") as server:
        until(lambda: server.ner("IBM")["version"] == 2)
        until(lambda: store.read("ner-en") == Deployment(stable=2, generation=1))


def _checks(pid: int) -> list[int]:
    """The processes that check a version for a server."""
    found = []
    for child in psutil.Process(pid).children():
        try:
            found += [child.pid] if "app.versions.loading.sandbox" in child.cmdline() else []
        except psutil.NoSuchProcess:
            continue
    return found
