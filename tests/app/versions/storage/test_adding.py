"""Adding: a version arrives whole and proved, or nothing of it is seen."""

import gc
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore.fsspec
import pytest
from fsspec import register_implementation

from app.errors import SettingsError, VersionRefused
from app.manifest import MANIFEST, File, Manifest, file_hash
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from app.versions.loading.sandbox import new_version_check
from app.versions.storage.adding import INCOMING, add_version
from app.versions.storage.repository import Repository
from app.versions.storage.signatures import SIGNATURE, sign
from app.versions.storage.sources import AddFailed
from tests.keys import write_keys
from tests.servers import until
from tests.tiny import edit_manifest, listed, write_tiny_version

ONE_THREAD = LoadOptions(threads=1)
HADRO = Path(sys.executable).with_name("hadro")
LISTED = {MANIFEST, "model.fp32.onnx", "tokenizer.json"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder that is not there yet."""
    return tmp_path / "models"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """`ner-en/3` outside the models folder."""
    return write_tiny_version(tmp_path / "elsewhere", version=3)


def added(source: str, models: Path, options: LoadOptions) -> Manifest:
    """Add a version that passes the checks which `nerve models add` makes."""
    return add_version(source, models, new_version_check(options, models))


def pack(folder: Path, archive: Path, top: str) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=top)
    return archive


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_nothing_left(models: Path) -> None:
    """No version, and no staging folder."""
    assert Repository(models).names() == []
    assert names(models / INCOMING) <= {".lock"}


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


class Files(SimpleHTTPRequestHandler):
    """The files of a folder."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def http(handler: "type[BaseHTTPRequestHandler] | partial[Files]") -> Iterator[str]:
    """A server on a free port of the loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


# Sources


def test_a_folder_is_added(version: Path, models: Path) -> None:
    manifest = added(str(version), models, ONE_THREAD)
    assert (manifest.name, manifest.version) == ("ner-en", 3)
    assert Repository(models).versions("ner-en") == [3]
    for name in LISTED:
        assert (models / "ner-en/3" / name).read_bytes() == (version / name).read_bytes()
    assert names(models / INCOMING) <= {".lock"}


def test_a_file_url_is_a_path(version: Path, models: Path) -> None:
    added(version.as_uri(), models, ONE_THREAD)
    assert Repository(models).versions("ner-en") == [3]


@pytest.mark.parametrize("top", [".", "3", "ner-en/3", "some/where/ner-en/3"])
def test_an_archive_has_top_folders_or_none(version: Path, models: Path, tmp_path: Path, top: str) -> None:
    archive = pack(version, tmp_path / "packed.tgz", top)
    added(str(archive), models, ONE_THREAD)
    assert names(models / "ner-en/3") == LISTED


def test_an_archive_of_several_versions_or_of_none_is_refused(
    version: Path, models: Path, tmp_path: Path
) -> None:
    write_tiny_version(tmp_path / "elsewhere", version=4)
    several = pack(version.parent, tmp_path / "several.tgz", "ner-en")
    (version / MANIFEST).unlink()
    (version / "deep/deeper").mkdir(parents=True)
    none = pack(version, tmp_path / "none.tgz", "ner-en/3")
    for archive in (several, none):
        with pytest.raises(AddFailed, match=r"holds no manifest\.json"):
            added(str(archive), models, ONE_THREAD)
        assert_nothing_left(models)


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


def test_http_archives_and_folders_are_read(version: Path, models: Path, tmp_path: Path) -> None:
    pack(version, tmp_path / "elsewhere" / "packed.tar.gz", "3")
    with http(partial(Files, directory=str(tmp_path / "elsewhere"))) as url:
        added(f"{url}/packed.tar.gz?token=1", models, ONE_THREAD)
        added(f"{url}/ner-en/3/", tmp_path / "others", ONE_THREAD)
        with pytest.raises(AddFailed, match="cannot be read"):
            added(f"{url}/nothing.tar.gz", tmp_path / "third", ONE_THREAD)
    assert names(models / "ner-en/3") == names(tmp_path / "others/ner-en/3") == LISTED
    assert_nothing_left(tmp_path / "third")


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a bucket `versions` of a real S3 server, which asks for signed requests."""
    log, buckets = tmp_path / "s3.log", tmp_path / "buckets"
    (buckets / "versions").mkdir(parents=True)
    keys = ["--access-key", "ours", "--secret-key", "secret"]
    with log.open("wb") as output:
        command = [HADRO, buckets, "--port", "0", "--log-level", "info", *keys]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        pattern = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
        until(lambda: pattern.search(log.read_text()) or process.poll() is not None, 60)
        found = pattern.search(log.read_text())
        assert found, log.read_text()
        for key, value in {
            "ENDPOINT": found[1],
            "ALLOW_HTTP": "true",
            "REGION": "eu-west-2",
            "ACCESS_KEY_ID": "ours",
            "SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(f"AWS_{key}", value)
        obstore.fsspec.register("s3")
        obstore.fsspec.FsspecStore.clear_instance_cache()
        yield buckets / "versions"
    finally:
        gc.collect()  # here, where the complaint of obstore's destructor is expected
        process.terminate()
        process.wait(60)


# obstore's own destructor fails on a file that it could not open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_s3_folders_and_archives_are_read(s3: Path, version: Path, models: Path, tmp_path: Path) -> None:
    shutil.copytree(version, s3 / "ner-en" / "3")
    pack(version, s3 / "packed.tar.gz", "3")
    added("s3://versions/ner-en/3", models, ONE_THREAD)
    added("s3://versions/packed.tar.gz", tmp_path / "others", ONE_THREAD)
    assert names(models / "ner-en/3") == names(tmp_path / "others/ner-en/3") == LISTED
    for source in ("s3://versions/ner-en/4", "s3://nowhere/ner-en/3", "s3://versions/none.tar.gz"):
        with pytest.raises(AddFailed, match=re.escape(source)):
            added(source, tmp_path / "third", ONE_THREAD)
    assert_nothing_left(tmp_path / "third")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_s3_with_wrong_credentials_is_a_clear_error(
    s3: Path, version: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(version, s3 / "ner-en" / "3")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AddFailed, match=r"s3://versions/ner-en/3: cannot be read: .*the credentials"):
        added("s3://versions/ner-en/3", models, ONE_THREAD)
    assert_nothing_left(models)


def test_a_missing_library_is_named(models: Path) -> None:
    register_implementation(
        "nowhere", "nerve_no_such_library.System", errtxt="Install nowhere", clobber=True
    )
    with pytest.raises(AddFailed, match=r"Install nowhere.*pip install 'nerve-ner\[remote\]'"):
        added("nowhere://bucket/ner-en/3", models, ONE_THREAD)
    with pytest.raises(AddFailed, match="Protocol not known"):
        added("nonsense://bucket/ner-en/3", models, ONE_THREAD)
    assert_nothing_left(models)


def test_a_hub_that_is_not_reached_is_a_clear_error(tmp_path: Path, models: Path) -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path\n"
            "from app.versions.storage.adding import AddFailed, add_version\n"
            "try: add_version('hf://someone/model/ner-en/3', Path(sys.argv[1]), print)\n"
            "except AddFailed as error: sys.exit(error.message)\n",
            models,
        ],
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stderr.startswith("hf://someone/model/ner-en/3: "), process.stderr
    assert_nothing_left(models)


@pytest.mark.parametrize("source", ["nowhere", "nowhere.tar.gz", "packed.zip", "empty"])
def test_a_source_that_is_none_is_refused(tmp_path: Path, models: Path, source: str) -> None:
    (tmp_path / "packed.zip").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AddFailed, match=r"name a version's folder"):
        added(str(tmp_path / source), models, ONE_THREAD)
    assert_nothing_left(models)


def test_a_source_in_the_models_folder_is_refused(models_dir: Path) -> None:
    for source in (models_dir, models_dir / "ner-en", models_dir / "ner-en" / "1"):
        with pytest.raises(AddFailed, match="lies in the models folder"):
            added(str(source), models_dir, ONE_THREAD)
    assert Repository(models_dir).versions("ner-en") == [1]


# Archives that mean harm


def crafted(archive: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    return archive


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/nerve", size=1),
        member("../outside", size=1),
        member("3/../../outside", size=1),
        member("3/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("3/link", tarfile.SYMTYPE, "tokenizer.json"),
        member("3/link", tarfile.LNKTYPE, "3/tokenizer.json"),
        member("3/pipe", tarfile.FIFOTYPE),
        member("3/device", tarfile.CHRTYPE),
    ],
    ids=lambda bad: f"{bad.name} {bad.type.decode()}",
)
def test_a_member_that_is_no_plain_file_inside_is_refused(
    models: Path, tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    before = names(tmp_path)
    archive = crafted(tmp_path / "bad.tar.gz", member("3/tokenizer.json", size=1), bad)
    with pytest.raises(VersionRefused, match="no plain file or folder inside"):
        added(str(archive), models, ONE_THREAD)
    assert_nothing_left(models)
    assert names(tmp_path) == before | {"bad.tar.gz", "models"}


def test_a_member_that_comes_twice_is_refused(models: Path, tmp_path: Path) -> None:
    archive = crafted(tmp_path / "bad.tar.gz", member("3/a", size=1), member("3/a", size=1))
    with pytest.raises(VersionRefused, match="twice"):
        added(str(archive), models, ONE_THREAD)


def test_an_archive_that_unpacks_to_too_much_is_refused(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.versions.storage.sources.MAX_BYTES", 100_000)
    archive = crafted(tmp_path / "bomb.tar.gz", member("3/a", size=60_000), member("3/b", size=60_000))
    with pytest.raises(AddFailed, match="unpacks to more than"):
        added(str(archive), models, ONE_THREAD)
    assert_nothing_left(models)


def test_a_torn_archive_is_refused(version: Path, models: Path, tmp_path: Path) -> None:
    archive = pack(version, tmp_path / "packed.tar.gz", "3")
    content = archive.read_bytes()
    for torn in (content[: len(content) // 2], b"no archive", b""):
        archive.write_bytes(torn)
        with pytest.raises(AddFailed, match=r"cannot be read"):
            added(str(archive), models, ONE_THREAD)
    assert_nothing_left(models)


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
    with pytest.raises(VersionRefused, match=r"ner-en/3: manifest\.json was changed while it was being"):
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
