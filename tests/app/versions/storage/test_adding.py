"""Adding: a version arrives whole and checked, or nothing of it is seen."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from app.errors import SettingsError, VersionRefused
from app.manifest import MANIFEST, File, file_hash
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from app.versions.storage.adding import INCOMING
from app.versions.storage.repository import Repository
from app.versions.storage.signatures import SIGNATURE, sign
from app.versions.storage.sources import AddFailed
from tests.adding import LISTED, ONE_THREAD, added, assert_nothing_left, http, names, pack
from tests.keys import write_keys
from tests.servers import until
from tests.tiny import edit_manifest, listed, write_tiny_version


def adding(source: str, models: Path) -> subprocess.Popen[str]:
    """An add in a process of its own."""
    code = (
        "import sys; from pathlib import Path\n"
        "from app.errors import NerveError\n"
        "from app.versions.storage.adding import add_version\n"
        "from app.versions.loading.options import LoadOptions\n"
        "from app.versions.loading.sandbox import new_version_check\n"
        "models = Path(sys.argv[2])\n"
        "try: add_version(sys.argv[1], models, new_version_check(LoadOptions(threads=1), models))\n"
        "except NerveError as error: sys.exit(error.message)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, source, models], stderr=subprocess.PIPE, text=True)


def test_a_folder_is_added(version: Path, models: Path) -> None:
    manifest = added(str(version), models, ONE_THREAD)
    assert (manifest.name, manifest.version) == ("ner-en", 3)
    assert Repository(models).versions("ner-en") == [3]
    for name in LISTED:
        assert (models / "ner-en/3" / name).read_bytes() == (version / name).read_bytes()
    assert names(models / INCOMING) <= {".lock"}


def test_only_what_the_manifest_lists_is_taken(version: Path, models: Path, tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path, "ours")
    sign(version, private)
    (version / "README.md").write_text("A card.")
    (version / "notes.txt").write_text("Not listed.")
    (version / "deep").mkdir()
    (version / "deep" / "notes.txt").write_text("Not listed.")
    archive = pack(version, tmp_path / "packed.tar.gz", "ner-en-3")
    for place, source in ((models, version), (tmp_path / "others", archive)):
        added(str(source), place, ONE_THREAD)
        assert names(place / "ner-en/3") == LISTED | {SIGNATURE, "README.md"}


def test_a_listed_file_in_a_folder_is_taken(version: Path, models: Path) -> None:
    (version / "deep").mkdir()
    (version / "deep" / "more.txt").write_text("listed")
    files = listed(version / "deep")["more.txt"]
    edit_manifest(
        version,
        files={name: file.model_dump() for name, file in listed_files(version).items()}
        | {"deep/more.txt": files.model_dump()},
    )
    added(str(version), models, ONE_THREAD)
    assert (models / "ner-en/3/deep/more.txt").read_text() == "listed"


def listed_files(folder: Path) -> dict[str, File]:
    return {
        path.name: File(size=path.stat().st_size, sha256=file_hash(path))
        for path in folder.iterdir()
        if path.is_file() and path.name != MANIFEST
    }


def test_an_ensemble_finds_its_members_in_the_models_folder(models: Path, tmp_path: Path) -> None:
    members = [write_tiny_version(models, name) for name in ("one", "two")]
    hashes = {f"{m.parent.name}/{m.name}": file_hash(m / MANIFEST) for m in members}
    ensemble = write_tiny_version(
        tmp_path / "elsewhere",
        "both",
        kind="ensemble",
        variants=(),
        inputs={},
        files={},
        members=tuple(hashes),
        member_hashes=hashes,
        method="mean",
    )
    added(str(ensemble), models, ONE_THREAD)
    assert Repository(models).versions("both") == [1]
    shutil.rmtree(models / "two")
    shutil.rmtree(models / "both")
    with pytest.raises(VersionRefused, match="member two/1 is not there"):
        added(str(ensemble), models, ONE_THREAD)


# Checks


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "../ner-en"}, "names no model and version"),
        ({"version": 0}, "names no model and version"),
        ({"version": "3"}, "names no model and version"),
        ({"format_version": 2}, "format_version 2"),
        ({"nonsense": 1}, "nonsense"),
        ({"golden": [{"text": "IBM", "entities": []}]}, "golden text 'IBM'"),
    ],
)
def test_a_version_that_fails_a_check_is_not_seen(
    version: Path, models: Path, changes: dict[str, object], reason: str
) -> None:
    edit_manifest(version, **changes)
    with pytest.raises(VersionRefused, match=re.escape(reason)):
        added(str(version), models, ONE_THREAD)
    assert_nothing_left(models)


def test_a_file_that_differs_or_is_missing_is_refused(version: Path, models: Path) -> None:
    model = version / "model.fp32.onnx"
    content = model.read_bytes()
    for other, reason in ((content + b"more", "bytes"), (content[:-1], "bytes")):
        model.write_bytes(other)
        with pytest.raises(VersionRefused, match=reason):
            added(str(version), models, ONE_THREAD)
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VersionRefused, match="sha256 differs"):
        added(str(version), models, ONE_THREAD)
    model.unlink()
    with pytest.raises(VersionRefused, match=r"model\.fp32\.onnx is missing"):
        added(str(version), models, ONE_THREAD)
    assert_nothing_left(models)


def test_a_taken_number_is_refused(version: Path, models: Path) -> None:
    added(str(version), models, ONE_THREAD)
    before = {path.name: path.stat().st_mtime_ns for path in (models / "ner-en/3").iterdir()}
    with pytest.raises(VersionRefused, match=r"ner-en/3: .*already.*next free number"):
        added(str(version), models, ONE_THREAD)
    assert {path.name: path.stat().st_mtime_ns for path in (models / "ner-en/3").iterdir()} == before


def test_only_what_a_trusted_key_signed_is_added(version: Path, models: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ours")
    trusting = LoadOptions(threads=1, trusted_keys=(public,))
    with pytest.raises(VersionRefused, match=r"manifest\.json\.sig is missing"):
        added(str(version), models, trusting)
    with pytest.raises(SettingsError, match="cannot be read"):
        added(str(version), models, LoadOptions(trusted_keys=(tmp_path / "nowhere",)))
    assert_nothing_left(models)
    sign(version, private)
    added(str(version), models, trusting)
    assert Repository(models).versions("ner-en") == [3]


def test_the_manifest_that_is_used_is_the_one_that_was_signed(version: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ours")
    sign(version, private)
    signed = tmp_path / "signed.json"
    shutil.copy(version / MANIFEST, signed)
    edit_manifest(version, description="Not signed.")
    key = tmp_path / "pipe.pem"  # a pipe says when it is read: after the manifest, before its signature
    os.mkfifo(key)

    def swap() -> None:
        with key.open("wb") as pipe:  # which waits for a reader
            signed.replace(version / MANIFEST)
            pipe.write(public.read_bytes())

    threading.Thread(target=swap, daemon=True).start()
    with pytest.raises(VersionRefused, match=r"ner-en/3: .* or manifest\.json was changed since"):
        load_version(version, LoadOptions(threads=1, trusted_keys=(key,)))
    load_version(version, LoadOptions(threads=1, trusted_keys=(public,))).close()


# Faults


def test_of_two_adds_of_one_version_exactly_one_wins(version: Path, models: Path) -> None:
    both = [adding(str(version), models) for _ in range(2)]
    complaints = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], complaints
    assert any("already" in complaint for complaint in complaints)
    assert names(models / "ner-en/3") == LISTED
    assert names(models / INCOMING) <= {".lock"}


def test_what_a_killed_add_left_goes_with_the_next_one(version: Path, models: Path, tmp_path: Path) -> None:
    content = pack(version, tmp_path / "packed.tar.gz", "3").read_bytes()
    stop = threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        """Sends half of the archive, then nothing more."""

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            stop.wait()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http(Stalling) as url:
        process = adding(f"{url}/packed.tar.gz", models)
        try:
            until(lambda: process.poll() is not None or list(models.glob(f"{INCOMING}/*/unpacked")))
            assert process.poll() is None, process.communicate()[1]
            live = names(models / INCOMING)
            other = write_tiny_version(tmp_path / "elsewhere", "other")
            added(str(other), models, ONE_THREAD)
            assert live <= names(models / INCOMING)  # it still runs
            assert Repository(models).names() == ["other"]
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        finally:
            stop.set()
            process.kill()
            process.communicate()
    assert live <= names(models / INCOMING)
    added(str(version), models, ONE_THREAD)
    assert Repository(models).versions("ner-en") == [3]
    assert names(models / INCOMING) <= {".lock"}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_is_a_clear_error(version: Path, tmp_path: Path) -> None:
    # Each of these takes a block of the disk, and so all of them more than their sizes add up to.
    for number in range(200):
        (version / f"{number}.txt").write_text("x")
    edit_manifest(version, files={name: file.model_dump() for name, file in listed(version).items()})
    archive = pack(version, tmp_path / "packed.tar.gz", "3")
    with small_disk(tmp_path / "disk", "400k") as models:
        for source in (version, archive):
            with pytest.raises(AddFailed, match=r"no room left in .*No space left on device.*make room"):
                added(str(source), models, ONE_THREAD)
            assert_nothing_left(models)
        small = write_tiny_version(tmp_path / "elsewhere", "small")
        added(str(small), models, ONE_THREAD)  # there is room again


def test_a_version_that_is_too_large_for_the_disk_is_not_begun(version: Path, tmp_path: Path) -> None:
    (version / "large").write_bytes(bytes(2_000_000))
    edit_manifest(version, files={name: file.model_dump() for name, file in listed(version).items()})
    archive = pack(version, tmp_path / "packed.tar.gz", "3")
    with small_disk(tmp_path / "disk", "400k") as models:
        with pytest.raises(AddFailed, match=r"no room left in .*it needs \d+ bytes, \d+ are free"):
            added(str(version), models, ONE_THREAD)
        with pytest.raises(AddFailed, match="what is free on the disk"):
            added(str(archive), models, ONE_THREAD)
        assert_nothing_left(models)
