"""Versions that are hostile or broken, and faults of the machine while a version is checked or runs."""

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from app.manifest import MANIFEST
from tests.attack.harness import MB, assert_quiet, target
from tests.attack.raw import assert_ours, connect, post, send
from tests.bad_versions import relist, weights_beside
from tests.deployments import put, show, state
from tests.servers import NERVE, Server, environment, serving, until
from tests.slow_graphs import HANG, endless, hanging
from tests.tiny import edit_manifest, write_tiny_version

pytestmark = pytest.mark.attack


# faults that do not last


def sandbox_of(server: Server) -> psutil.Process | None:
    """The process in which a server checks a version, once it does so."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(server.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "app.versions.loading.sandbox" in child.cmdline():
                    return child
    return None


def caught(server: Server) -> psutil.Process:
    """Wait for a check, and return its process."""
    found: list[psutil.Process] = []

    def seen() -> bool:
        process = sandbox_of(server)
        found.extend([process] if process else [])
        return bool(found)

    until(seen, seconds=60)
    return found[0]


def two_versions(folder: Path) -> Path:
    for version in (1, 2):
        write_tiny_version(folder / "models", version=version, ibm="ORG" if version == 1 else "LOC")
    return folder / "models"


def written_down(models: Path) -> int | None:
    """The stable version that a state file names; None without one."""
    path = models / ".state/ner-en.json"
    return json.loads(path.read_text())["stable"] if path.exists() else None


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_a_check_by_a_signal_is_no_fault_of_the_version(
    tmp_path: Path, sig: signal.Signals
) -> None:
    """The newest version is checked first, and its check is killed; it serves all the same, soon after."""
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log", ready=False) as server:
        caught(server).send_signal(sig)
        until(lambda: _serves(server) or state(server, "ner-en", 2) == "refused", seconds=60)
        until(lambda: _serves(server) == 2, seconds=60)
        assert written_down(models) == 2
        by_us = [change for change in _history(server) if change["deployment"]["stable"] == 1]
        assert not by_us, f"an older version was written down: {by_us}"
        assert_quiet(server.log)


def _serves(server: Server) -> int | None:
    answer = server.client.post("/ner", json={"text": "IBM"})
    return int(answer.json()["version"]) if answer.status_code == 200 else None


def _history(server: Server) -> list[dict[str, dict[str, int]]]:
    history: list[dict[str, dict[str, int]]] = server.client.get("/models/ner-en/history").json()
    return history


@pytest.mark.parametrize("sig", [signal.SIGINT])
def test_the_end_of_the_whole_group_while_it_checks_writes_nothing_down(
    tmp_path: Path, sig: signal.Signals
) -> None:
    """As a terminal's Ctrl-C or a supervisor does: all processes at once, the check's first."""
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log", ready=False) as server:
        caught(server).send_signal(sig)
        server.process.send_signal(sig)
        assert server.process.wait(30) == 0
    assert written_down(models) in (None, 2), "an older version was written down"
    with serving(models, tmp_path / "log") as server:
        until(lambda: server.ner("IBM")["version"] == 2, seconds=30)


def test_a_canary_whose_check_is_killed_stays_what_was_asked_for(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log") as server:
        assert put(server, "ner-en", stable=2).status_code == 200
        shutil.copytree(models / "ner-en/2", models / "ner-en/3")
        edit_manifest(models / "ner-en/3", version=3)
        caught(server).kill()
        until(lambda: state(server, "ner-en", 3) in ("ready", "refused"), seconds=60)
        assert state(server, "ner-en", 3) == "ready", show(server, "ner-en")["versions"]


# sessions that hang


@contextmanager
def hung(folder: Path) -> Iterator[Server]:
    """A server whose model's session has just begun to hang."""
    for version in (1, 2):
        write_tiny_version(folder / "models", version=version, graph=hanging())
        write_tiny_version(folder / "models", "other", version)
    with serving(folder / "models", folder / "log") as server:
        for name in ("ner-en", "other"):
            for version in (1, 2):
                assert put(server, name, stable=version).status_code == 200
        with connect(server) as asking:
            asking.sendall(post("/ner", json.dumps({"text": HANG}).encode(), "X-Request-Timeout-Ms: 2000"))
            time.sleep(0.5)
            yield server


def test_a_session_that_hangs_is_noticed_and_holds_up_no_operator(tmp_path: Path) -> None:
    with hung(tmp_path) as server, server.fresh_client() as operator:
        try:
            operator.timeout = httpx.Timeout(40)
            other = operator.put("/models/other/deployment", json={"stable": 1})
            assert other.status_code in (200, 202), other.text
            assert operator.post("/ner", json={"text": "IBM", "model": "other"}).status_code == 200
            back = operator.post("/models/ner-en/rollback", json={})
            assert back.status_code in (200, 202, 409), back.text

            def well() -> bool:
                return server.client.post("/ner", json={"text": "IBM"}).status_code == 200

            until(well, seconds=45)
        finally:
            server.process.kill()


def test_a_server_whose_session_hangs_ends(tmp_path: Path) -> None:
    """After its grace, or at once at a second signal."""
    with hung(tmp_path) as server:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(15)
        except subprocess.TimeoutExpired:
            server.process.kill()
            pytest.fail(f"{time.monotonic() - started:.0f} s after the second signal it still runs")


# versions that never load


def test_versions_that_never_load_hold_up_no_other(tmp_path: Path) -> None:
    """They stand before, beside and after the good ones; only who asks for them waits."""
    models = tmp_path / "models"
    for name in ("a-slow", "ner-en-slow", "z-slow"):
        write_tiny_version(models, name, graph=endless())
    for name in ("b-good", "ner-en", "z-good"):
        write_tiny_version(models, name)
        write_tiny_version(models, name, 2)
    started = time.monotonic()
    with serving(models, tmp_path / "log", load_timeout=60) as server:
        assert time.monotonic() - started < 40, "the default model waited for one that never loads"
        for name in ("b-good", "z-good"):
            until(lambda name=name: _answers(server, name), seconds=40)
        clients = [server.fresh_client() for _ in range(8)]

        def ask(client: httpx.Client) -> None:
            with suppress(httpx.TransportError):
                client.put("/models/ner-en-slow/deployment", json={"stable": 1})

        waiting = [threading.Thread(target=ask, args=(client,), daemon=True) for client in clients]
        for thread in waiting:
            thread.start()
        time.sleep(0.5)
        started = time.monotonic()
        assert put(server, "ner-en", stable=1).status_code == 200
        assert server.client.get("/models").status_code == 200
        seconds = time.monotonic() - started
        assert seconds < 15, f"an operator's change waited for others' versions for {seconds:.0f} s"
        server.process.kill()  # those who asked for the slow version would be waited for


def _answers(server: Server, name: str) -> bool:
    return server.client.post("/ner", json={"text": "IBM", "model": name}).status_code == 200


# hostile folders


def of_brackets(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"[" * 40 * MB)


def of_blanks(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b" " * 300 * MB)


def of_a_long_list(folder: Path) -> None:
    members = ",".join(['"a/1"'] * 4_000_000)
    (folder / MANIFEST).write_text(f'{{"members":[{members}]}}')


def a_fifo(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def a_folder(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()


def a_device(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to("/dev/zero")


def a_link_to_itself(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to(MANIFEST)


def a_fifo_for_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def a_fifo_beside(folder: Path) -> None:
    os.mkfifo(folder / "manifest.json.sig")


def a_device_for_a_network(folder: Path) -> None:
    (folder / "model.fp32.onnx").unlink()
    (folder / "model.fp32.onnx").symlink_to("/dev/zero")


def a_tokenizer_of_brackets(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"[" * 40 * MB)
    relist(folder)


def a_name_of_a_megabyte(folder: Path) -> None:
    edit_manifest(folder, name="a" * MB, description="b" * MB)


def labels_by_the_million(folder: Path) -> None:
    edit_manifest(folder, labels=[f"L{number}" for number in range(1_000_000)])


HOSTILE: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        of_brackets,
        of_blanks,
        of_a_long_list,
        a_fifo,
        a_folder,
        a_device,
        a_link_to_itself,
        a_fifo_for_a_tokenizer,
        a_device_for_a_network,
        a_tokenizer_of_brackets,
        a_name_of_a_megabyte,
        labels_by_the_million,
    )
}


def test_hostile_folders_are_refused_and_the_server_stays_small(tmp_path: Path) -> None:
    """All appear at once beside a good model, which goes on answering; so does every route."""
    write_tiny_version(tmp_path / "models")
    prepared = tmp_path / "prepared"
    for number, spoil in enumerate(HOSTILE.values(), 1):
        spoil(write_tiny_version(prepared, "bad", number))
    with target(tmp_path / "models", tmp_path, poll_seconds=0.1) as attacked:
        server = attacked.server
        own = psutil.Process(server.process.pid)
        before, most = own.memory_info().rss, 0

        def attack() -> None:
            nonlocal most
            prepared.joinpath("bad").rename(tmp_path / "models/bad")
            end = time.monotonic() + 60
            while time.monotonic() < end:
                with server.fresh_client() as client:
                    client.timeout = httpx.Timeout(20)
                    shown = client.get("/models/bad")
                states = {one["version"]: one["state"] for one in shown.json().get("versions", [])}
                most = max(most, own.memory_info().rss)
                if len(states) == len(HOSTILE) and set(states.values()) == {"refused"}:
                    assert len(shown.content) < 100_000, f"the reasons have {len(shown.content)} bytes"
                    return
                time.sleep(0.02)
            named = dict(enumerate(HOSTILE, 1))
            pytest.fail(f"not refused: {[named[n] for n, s in states.items() if s != 'refused'] or states}")

        attacked.withstands(attack, wait=1, memory=2_000 * MB)  # with the processes of the checks
        assert most - before <= 150 * MB, f"the server itself grew by {(most - before) / MB:.0f} MB"
        assert server.log.stat().st_size < MB, "the log was flooded"
        answer = send(server, post("/ner", b'{"text":"IBM","model":"bad","version":1}'))
        assert_ours(answer, 409)
        assert str(tmp_path) not in answer.body.decode()


def test_what_stands_in_the_models_folder_by_chance_is_no_model(tmp_path: Path) -> None:
    """Links, pipes, odd names and very many versions; the good model is found among them."""
    models = tmp_path / "models"
    write_tiny_version(models)
    (models / "loop").symlink_to(models)
    (models / "gone").symlink_to(tmp_path / "gone")
    os.mkfifo(models / "pipe")
    (models / "a").mkdir()
    (models / "a/1").symlink_to("/")
    (models / "a/2").symlink_to("/proc")
    (models / "a/3").symlink_to(models)
    (models / "a/01").mkdir()
    (models / "a" / ("9" * 200)).mkdir()
    (models / "a/4").mkdir()
    (models / "a/4/loop").symlink_to(models / "a/4")
    for number in range(100):
        (models / f"empty-{number}/1").mkdir(parents=True)
    with target(models, tmp_path, poll_seconds=0.1) as attacked:
        server = attacked.server

        def attack() -> int:
            sizes = []
            for _ in range(5):
                sizes.append(len(server.client.get("/models").content))
                time.sleep(0.2)
            return max(sizes)

        attacked.withstands(attack, memory=2_000 * MB)
        assert server.client.get("/readyz").status_code == 200
        assert server.client.get("/models/a").status_code == 200
        assert put(server, "ner-en", stable=1).status_code == 200


def test_weights_that_the_manifest_does_not_list_are_refused(tmp_path: Path) -> None:
    """They are neither signed nor hashed, and the network reads them all the same."""
    models = tmp_path / "models"
    write_tiny_version(models)
    folder = write_tiny_version(models, version=2)
    weights_beside(folder)
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    del listed["weights.bin"]
    edit_manifest(folder, files=listed)
    done = subprocess.run(
        [NERVE, "models", "verify", "ner-en/2"],
        env=environment(models),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "refused" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1


# archives


def peak_of_adding(source: Path, models: Path) -> tuple[int, int, str]:
    """Run `nerve models add`; return its exit code, its peak of memory, and what it said."""
    said, peak = source.with_suffix(".said"), 0
    with said.open("wb") as output:
        process = subprocess.Popen(
            [NERVE, "models", "add", str(source)], env=environment(models), stdout=output, stderr=output
        )
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.01)
    return process.returncode, peak, said.read_text()


def packed(path: Path, *blocks: bytes) -> Path:
    """A gzip'd file of blocks."""
    with gzip.open(path, "wb", 1) as file:
        for block in blocks:
            file.write(block)
    return path


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(path: Path) -> Path:
    size = 200 * MB
    record = b"%d path=" % size
    return packed(path, header("x", size, tarfile.XHDTYPE), record, b"a" * (size - len(record) - 1) + b"\n")


def pax_records(path: Path) -> Path:
    record = b"12 a%05d=b\n"
    block = b"".join(record % (number % 100_000) for number in range(MB))
    return packed(path, header("x", len(block) * 8, tarfile.XGLTYPE), *[block] * 8)


def gnu_name(path: Path) -> Path:
    return packed(path, header("x", 200 * MB, tarfile.GNUTYPE_LONGNAME), b"a" * 200 * MB)


def manifest_of_brackets(path: Path) -> Path:
    return packed(path, header("manifest.json", 60 * MB), b"[" * 60 * MB)


def sparse(path: Path) -> Path:
    return packed(path, header("x", 2**40, tarfile.GNUTYPE_SPARSE))


def size_below_zero(path: Path) -> Path:
    block = bytearray(header("manifest.json", 10))
    block[124:136] = b"\xff" * 12
    return packed(path, bytes(block))


@pytest.mark.parametrize(
    "make", [pax, pax_records, gnu_name, manifest_of_brackets, sparse, size_below_zero]
)
def test_a_hostile_archive_is_refused_and_takes_little_memory(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    archive = make(tmp_path / "bad.tar.gz")
    code, peak, said = peak_of_adding(archive, tmp_path / "models")
    assert code == 1, said
    assert said.startswith("nerve: "), said
    assert "Traceback" not in said
    assert len(said) < 2_000, f"the message has {len(said)} characters: {said[:200]}"
    assert peak < 350 * MB, f"it took {peak / MB:.0f} MB"
    left = [path for path in (tmp_path / "models").rglob("*") if path.is_file() and path.stat().st_size]
    assert not left, left


# damage while it runs


def test_state_that_is_damaged_while_it_serves_is_told_and_changes_nothing(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log") as server:
        assert put(server, "ner-en", stable=2).status_code == 200
        path = models / ".state/ner-en.json"
        good = path.read_bytes()
        server.client.timeout = httpx.Timeout(15)

        def damage() -> Iterator[tuple[str, Callable[[], object]]]:
            yield "brackets", lambda: path.write_bytes(b"[" * 30 * MB)
            yield "zeros", lambda: path.write_bytes(bytes(1000))
            yield "nothing", lambda: path.write_bytes(b"")
            yield "digits", lambda: path.write_bytes(b'{"stable": 2, "generation": %s}' % (b"9" * 6_000))
            yield (
                "a version that is not there",
                lambda: path.write_bytes(b'{"stable": 99, "generation": 7}'),
            )
            yield "a folder", lambda: (path.unlink(), path.mkdir())
            yield "a pipe", lambda: (path.rmdir(), os.mkfifo(path))

        for what, do in damage():
            before = psutil.Process(server.process.pid).memory_info().rss
            do()
            try:
                until(lambda: show(server, "ner-en")["problem"], seconds=20)
            except (AssertionError, httpx.TransportError, json.JSONDecodeError) as error:
                pytest.fail(f"{what}: nobody was told ({error!r})")
            assert server.ner("IBM")["version"] == 2, what
            grown = psutil.Process(server.process.pid).memory_info().rss - before
            assert grown < 150 * MB, f"{what}: it grew by {grown / MB:.0f} MB"
            assert len(server.client.get("/models/ner-en").content) < 50_000, what
        path.unlink()  # a pipe
        path.write_bytes(good)
        until(lambda: not show(server, "ner-en")["problem"], seconds=20)
        assert put(server, "ner-en", stable=1).status_code == 200
        assert_quiet(server.log)


def test_a_history_of_megabytes_is_not_read_whole(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with target(models, tmp_path) as attacked:
        server = attacked.server
        for version in (1, 2):
            assert put(server, "ner-en", stable=version).status_code == 200
        path = tmp_path / "state/ner-en.history.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[-1] * 200_000 + b"x" * 30 * MB + b"\n" + lines[-1])

        def attack() -> None:
            for limit in (1, 100, 10_000):
                answer = server.client.get(f"/models/ner-en/history?limit={limit}")
                assert answer.status_code == 200, answer.text[:300]
            assert put(server, "ner-en", stable=1).status_code == 200
            assert put(server, "ner-en", stable=2).status_code == 200

        attacked.withstands(attack, memory=250 * MB)


def test_a_version_that_is_removed_while_it_serves_is_told(tmp_path: Path) -> None:
    models = two_versions(tmp_path)
    with serving(models, tmp_path / "log") as server:
        assert put(server, "ner-en", stable=2).status_code == 200
        shutil.rmtree(models / "ner-en/2")
        assert server.ner("IBM")["version"] == 2
        until(lambda: show(server, "ner-en")["problem"], seconds=20)
        assert "ner-en/2" in show(server, "ner-en")["problem"]
        assert written_down(models) == 2


def test_an_archive_in_an_archive_leads_nowhere(tmp_path: Path) -> None:
    """Names that lead out, links and devices; nothing of them is unpacked."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, info in enumerate(
        [
            _member("../outside/a"),
            _member(f"{outside}/a"),
            _member("manifest.json", tarfile.SYMTYPE, "/etc/passwd"),
            _member("manifest.json", tarfile.LNKTYPE, "../../outside/a"),
            _member("manifest.json", tarfile.CHRTYPE),
            _member("manifest.json", tarfile.FIFOTYPE),
        ]
    ):
        archive = tmp_path / f"{number}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
        code, _, said = peak_of_adding(archive, tmp_path / "models")
        assert code == 1, said
        assert said.startswith("nerve: "), said
    assert not list(outside.iterdir())


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return info


def test_pinned_versions_by_the_dozen_cost_a_stranger_more_than_the_server(tmp_path: Path) -> None:
    """Each version that is pinned is loaded; a stranger who pins them in turn must not starve others."""
    models = tmp_path / "models"
    for version in range(1, 8):
        write_tiny_version(models, version=version)
    with target(models, tmp_path) as attacked:
        server = attacked.server
        until(lambda: all(v["state"] != "found" for v in show(server, "ner-en")["versions"]), seconds=90)

        def attack() -> set[int]:
            end = time.monotonic() + 2
            statuses = set[int]()
            version = 0
            while time.monotonic() < end:
                version = version % 7 + 1
                body = b'{"text":"IBM","version":%d}' % version
                statuses.add(send(server, post("/ner", body)).status)
            return statuses

        assert attacked.withstands(attack, memory=400 * MB) <= {200, 429, 503}
