"""Canary, shadow and history: a version on its way into service, on real servers."""

import json
import math
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.manifest import MANIFEST, file_hash
from app.versions.rollout.store import DeploymentStore
from tests.deployments import put, show, state
from tests.servers import Server, nerve, serving, until
from tests.tiny import POISON, edit_manifest, write_tiny_version


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("rolling")
    write_tiny_version(folder / "models")
    with serving(folder / "models", folder / "log") as running:
        yield running, folder / "models"


@pytest.fixture
def name(rolling: tuple[Server, Path], request: pytest.FixtureRequest) -> str:
    """A model of the test's own: version 1 serves; in 2 IBM is a place, 3 is like 1."""
    server, models = rolling
    name = "model-" + str(abs(hash(request.node.name)))
    write_tiny_version(models, name)
    until(lambda: show(server, name).get("generation") == 1)
    write_tiny_version(models, name, 2, ibm="LOC")
    write_tiny_version(models, name, 3)
    return name


def canary(version: int, percent: float, **more: Any) -> dict[str, Any]:
    return {"canary": {"version": version, "percent": percent, **more}}


def versions(server: Server, name: str, texts: list[str], **headers: str) -> Counter[int]:
    answers = [
        server.client.post("/ner", json={"text": text, "model": name}, headers=headers) for text in texts
    ]
    return Counter(answer.json()["version"] for answer in answers)


def within_chance(found: int, count: int, share: float) -> bool:
    return abs(found - count * share) <= 5 * math.sqrt(count * share * (1 - share))


def test_a_canary_answers_its_share_and_is_promoted(rolling: tuple[Server, Path], name: str) -> None:
    server, _ = rolling
    answer = put(server, name, **canary(2, 30))
    assert (answer.status_code, answer.json()["canary"]["percent"]) == (200, 30), answer.text
    assert (state(server, name, 1), state(server, name, 2)) == ("serving", "canary")
    found = versions(server, name, ["IBM"] * 400)
    assert within_chance(found[2], 400, 0.3)
    assert server.metric("nerve_requests_total", model=name, version="2", status="200") == found[2]
    assert server.metric("nerve_entities_total", model=name, version="2", label="LOC") == found[2]
    assert server.metric("nerve_entity_score_count", model=name, version="1", label="ORG") == found[1]
    promoted = server.client.post(f"/models/{name}/promote", json={})
    assert (promoted.status_code, promoted.json()["stable"]) == (200, 2)
    assert (promoted.json()["previous"], promoted.json()["canary"]) == (1, None)
    assert versions(server, name, ["IBM"] * 20) == {2: 20}


def test_a_canary_is_aborted_by_a_command(rolling: tuple[Server, Path], name: str) -> None:
    server, models = rolling
    done = nerve("models", "canary", name, "2", "--percent", "100", models=models)
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        f"{name}: stable 1, previous None, canary 2 with 100 %",
    ), done.stderr
    assert versions(server, name, ["IBM"] * 5) == {2: 5}
    done = nerve("models", "abort", name, models=models)
    assert done.returncode == 0, done.stderr
    assert versions(server, name, ["IBM"] * 5) == {1: 5}
    again = server.client.post(f"/models/{name}/abort", json={})
    assert (again.status_code, again.json()["code"]) == (409, "no_canary")


def test_a_canary_sticks_to_a_header_or_to_the_text(rolling: tuple[Server, Path], name: str) -> None:
    server, _ = rolling
    put(server, name, **canary(2, 50, sticky="X-User-Id"))
    by_user = [versions(server, name, ["IBM"] * 5, **{"X-User-Id": f"user {n}"}) for n in range(40)]
    assert all(len(found) == 1 for found in by_user)
    assert len({next(iter(found)) for found in by_user}) == 2
    put(server, name, **canary(2, 50, sticky="text"))
    by_text = [versions(server, name, [f"IBM {n}"] * 5) for n in range(40)]
    assert all(len(found) == 1 for found in by_text)
    assert len({next(iter(found)) for found in by_text}) == 2


def test_a_pinned_version_is_no_matter_of_chance(rolling: tuple[Server, Path], name: str) -> None:
    server, _ = rolling
    put(server, name, **canary(2, 100))
    assert server.ner("IBM", model=name, version=1)["version"] == 1
    assert server.ner("IBM", model=name)["version"] == 2


def test_a_canary_that_fails_is_withdrawn_by_its_rule(rolling: tuple[Server, Path], name: str) -> None:
    server, _ = rolling
    # its batches fail every other time, so that three in a row never do
    put(server, name, **canary(2, 100, abort={"requests": 20, "errors": 2}))
    for _ in range(10):
        server.ner("IBM", model=name)
        failed = server.client.post("/ner", json={"text": POISON, "model": name})
        assert failed.status_code == 500
    until(lambda: show(server, name)["canary"] is None)
    assert server.metric("nerve_canary_aborts_total", model=name, version="2", reason="errors") == 1
    assert server.ner("IBM", model=name)["version"] == 1
    last = server.client.get(f"/models/{name}/history").json()[-1]
    assert (last["action"], last["by"][:14]) == ("abort", "nerve: errors:")


def test_a_shadow_is_compared_and_answers_nobody(rolling: tuple[Server, Path], name: str) -> None:
    server, _ = rolling
    shadows = [{"version": 2, "percent": 100}, {"version": 3, "percent": 100}]
    assert put(server, name, shadow=shadows).status_code == 200
    assert [state(server, name, version) for version in (1, 2, 3)] == ["serving", "shadow", "shadow"]
    assert versions(server, name, ["IBM", "Nothing here.", "IBM in New York"] * 5) == {1: 15}
    until(lambda: [s["texts"] + s["dropped"] for s in show(server, name)["shadow"]] == [15, 15])
    other, same = show(server, name)["shadow"]
    assert other["dropped"] == same["dropped"] == 0
    assert (other["same"], other["same_spans"]) == (5, 15)
    assert (other["f1"], other["f1_by_label"]) == (
        pytest.approx(2 * 5 / (2 * 5 + 10 + 10)),
        {"ORG": 0, "LOC": pytest.approx(2 * 5 / (2 * 5 + 10))},
    )
    assert (same["same"], same["f1"]) == (15, 1)
    assert put(server, name, shadow=None).json()["shadow"] == []
    assert state(server, name, 2) == "ready"
    until(lambda: server.metric("nerve_model_info", model=name, version="2") == 0)


def test_copies_beyond_the_spare_capacity_are_dropped_and_counted(
    rolling: tuple[Server, Path], name: str
) -> None:
    server, _ = rolling
    put(server, name, shadow=[{"version": 2, "percent": 100}])
    texts = ["IBM"] * 1000
    answer = server.client.post("/ner", json={"texts": texts, "model": name})
    assert answer.status_code == 200
    until(lambda: sum(show(server, name)["shadow"][0][key] for key in ("texts", "dropped")) == 1000)
    assert server.metric("nerve_shadow_dropped_total", model=name, version="2", reason="full") > 0


def test_a_change_is_guarded_by_its_generation(rolling: tuple[Server, Path], name: str) -> None:
    server, _ = rolling
    path = f"/models/{name}/deployment"
    tag = server.client.get(path).headers["ETag"]
    first = server.client.put(path, json={"stable": 2}, headers={"If-Match": tag})
    assert (first.status_code, first.headers["ETag"]) == (200, '"2"')
    late = server.client.put(path, json={"stable": 3}, headers={"If-Match": tag})
    assert (late.status_code, late.json()["code"]) == (412, "generation_changed")
    wrong = server.client.put(path, json={"stable": 3}, headers={"If-Match": "yesterday"})
    assert wrong.status_code == 400
    assert show(server, name)["serving"] == 2


def test_two_operators_at_once_lose_nothing(rolling: tuple[Server, Path], name: str) -> None:
    server, models = rolling
    store = DeploymentStore(models / ".state")
    before = store.read(name)
    assert before
    changes = [{"stable": 2}, {"stable": 3}, {"shadow": [{"version": 9, "percent": 1}]}] * 4
    statuses: list[int] = []

    def change(body: dict[str, Any]) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            statuses.append(client.put(f"/models/{name}/deployment", json=body).status_code)

    threads = [threading.Thread(target=change, args=(body,)) for body in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = store.read(name)
    assert after
    assert Counter(statuses) == {200: 8, 404: 4}
    generations = [change.deployment.generation for change in store.history(name)]
    assert generations == list(range(before.generation, after.generation + 1))
    assert (after.stable, after.previous) in ((2, 3), (3, 2))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (canary(9, 5), 404, "unknown_version"),
        (canary(1, 5), 422, "invalid_deployment"),
        (canary(2, 101), 422, "invalid_request"),
        (canary(2, 5, abort={"requests": 100}), 422, "invalid_request"),
        ({"shadow": [{"version": 1, "percent": 5}]}, 422, "invalid_deployment"),
        ({"stable": None}, 422, "invalid_request"),
    ],
)
def test_a_change_that_cannot_be_is_refused(
    rolling: tuple[Server, Path], name: str, body: Any, status: int, code: str
) -> None:
    server, _ = rolling
    answer = put(server, name, **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert server.client.get(f"/models/{name}/deployment").json()["generation"] == 1


def test_history_says_who_and_when(rolling: tuple[Server, Path], name: str) -> None:
    server, models = rolling
    put(server, name, stable=2)
    assert nerve("models", "rollback", name, models=models).returncode == 0
    found = server.client.get(f"/models/{name}/history").json()
    assert [(c["action"], c["by"].split()[0], c["deployment"]["stable"]) for c in found] == [
        ("start", "nerve:", 1),
        ("deploy", "client", 2),
        ("rollback", "user", 1),
    ]
    lines = nerve("models", "history", name, models=models).stdout.splitlines()
    assert [line.split("\t")[2] for line in lines] == ["start", "deploy", "rollback"]


def test_what_fails_three_times_in_a_row_is_taken_out(rolling: tuple[Server, Path], name: str) -> None:
    server, _ = rolling
    put(server, name, stable=2)
    for _ in range(3):
        assert server.client.post("/ner", json={"text": POISON, "model": name}).status_code == 500
    until(lambda: show(server, name)["serving"] == 1)
    model = show(server, name)
    assert (model["stable"], model["previous"]) == (1, None)
    assert server.metric("nerve_model_taken_out_total", model=name, version="2") == 1
    assert state(server, name, 2) == "refused"
    assert server.ner("IBM", model=name)["version"] == 1
    again = put(server, name, stable=2)  # an operator may try again
    assert (again.status_code, server.ner("IBM", model=name)["version"]) == (200, 2)


def test_what_has_no_version_before_gets_a_new_session(rolling: tuple[Server, Path], name: str) -> None:
    server, _ = rolling
    for _ in range(3):
        server.client.post("/ner", json={"text": POISON, "model": name})
    until(lambda: server.metric("nerve_model_taken_out_total", model=name, version="1") == 1)
    until(lambda: state(server, name, 1) == "serving")
    assert server.ner("IBM", model=name)["version"] == 1


def test_every_worker_follows_before_a_change_is_answered(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_version(models)
    write_tiny_version(models, version=2, ibm="LOC")
    DeploymentStore(models / ".state").edit("ner-en", lambda d: d.with_stable(1))
    with serving(models, tmp_path / "log", workers=3) as server:
        until(lambda: len(list((models / ".state/workers").glob("*.json"))) == 3)
        for version in (2, 1, 2):
            answer = put(server, "ner-en", stable=version)
            assert (answer.status_code, answer.json()["converged"]) == (200, True), answer.text
            for _ in range(12):
                with httpx.Client(base_url=server.url, timeout=60) as fresh:
                    found = fresh.post("/ner", json={"text": "IBM"}).json()["version"]
                assert found == version
        reports = [json.loads(path.read_text()) for path in (models / ".state/workers").glob("*.json")]
        assert {report["models"]["ner-en"]["stable"] for report in reports} == {2}
        assert len({report["server"] for report in reports}) == 1


def test_a_worker_that_cannot_follow_is_named(tmp_path: Path) -> None:
    """It is stopped, as a process is that its machine has no time for."""
    models = tmp_path / "models"
    write_tiny_version(models)
    write_tiny_version(models, version=2)
    DeploymentStore(models / ".state").edit("ner-en", lambda d: d.with_stable(1))
    with serving(models, tmp_path / "log", workers=2, converge_timeout=1):
        folder = models / ".state/workers"
        until(lambda: len(list(folder.glob("*.json"))) == 2)
        stopped, other = (json.loads(path.read_text())["pid"] for path in folder.glob("*.json"))
        os.kill(stopped, signal.SIGSTOP)
        try:
            done = nerve("models", "activate", "ner-en", "2", models=models, converge_timeout=1)
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert done.returncode == 1
        assert f":{stopped}: has not followed yet" in done.stderr
        assert "1 of 2 running workers follow" in done.stdout
        assert str(other) not in done.stderr


def write_ensemble(models: Path, members: list[str], method: str) -> str:
    """A version 1 of a model named after the first member's; its name."""
    first = json.loads((models / members[0] / MANIFEST).read_text())
    own = {
        "name": f"team-of-{first['name']}",
        "kind": "ensemble",
        "method": method,
        "members": members,
        "member_hashes": {member: file_hash(models / member / MANIFEST) for member in members},
        "variants": [],
        "inputs": {},
        "files": {},
        "golden": [],
    }
    folder = models / str(own["name"]) / "1"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps(first | own))
    return str(own["name"])


def test_an_ensemble_says_how_far_its_members_agree(rolling: tuple[Server, Path], name: str) -> None:
    server, models = rolling
    team = write_ensemble(models, [f"{name}/1", f"{name}/2", f"{name}/3"], "vote")
    until(lambda: show(server, team).get("serving") == 1)
    text = "Angela Merkel visited IBM."
    found = server.ner(text, model=team, agreement=True)["entities"]
    assert [(e["label"], e["agreement"]) for e in found] == [("PER", 1), ("ORG", 0.6667)]
    assert "agreement" not in server.ner(text, model=team)["entities"][0]
    alone = server.ner(text, model=name, agreement=True)["entities"]
    assert [e["agreement"] for e in alone] == [None, None]


def test_an_ensemble_survives_a_swap_of_its_members(rolling: tuple[Server, Path], name: str) -> None:
    """Members swap roles of their own under load; the ensemble goes on with what it was made of."""
    server, models = rolling
    team = write_ensemble(models, [f"{name}/1", f"{name}/3"], "mean")
    until(lambda: show(server, team).get("serving") == 1)
    meant = server.ner("IBM in New York", model=team)
    stop, wrong = threading.Event(), list[Any]()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/ner", json={"text": "IBM in New York", "model": team})
                if answer.status_code != 200 or answer.json() != meant:
                    wrong.append(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in (2, 3, 2, 1):
        assert put(server, name, stable=version).status_code == 200
    edit_manifest(models / name / "3", description="another file")  # now it is another member
    until(lambda: state(server, team, 1) == "serving" and state(server, name, 3) != "serving")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    refused = nerve("models", "verify", f"{team}/1", models=models)
    assert refused.returncode == 1
    assert f"member {name}/3 is not the one it was made with" in refused.stdout
