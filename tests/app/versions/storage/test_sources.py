"""Sources: a version is read from wherever it lies, and archives that mean harm are refused."""

import gc
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import obstore.fsspec
import pytest
from fsspec import register_implementation

from app.errors import VersionRefused
from app.manifest import MANIFEST
from app.versions.storage.repository import Repository
from app.versions.storage.sources import AddFailed
from tests.adding import LISTED, ONE_THREAD, Files, added, assert_nothing_left, http, names, pack
from tests.servers import until
from tests.tiny import write_tiny_version

HADRO = Path(sys.executable).with_name("hadro")


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


def header(kind: bytes, size: int) -> bytes:
    """A header of an archive that says that so many bytes of it follow."""
    info = member("x", kind)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def record(size: int) -> bytes:
    """A record of a pax header, of so many bytes."""
    start = f"{size} comment=".encode()
    return start + b"a" * (size - len(start) - 1) + b"\n"


def sparse_header() -> bytes:
    """The header of a sparse file that goes on."""
    block = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
    block[482] = 1
    total = sum(block[:148]) + sum(block[156:512]) + 8 * ord(" ")
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


FOLDER = header(tarfile.DIRTYPE, 0)
MANY = b"".join(f"8 {number:03x}=1\n".encode() for number in range(4_000))

HEADERS = {
    "a long pax header": [header(tarfile.XHDTYPE, 64 * 1024**2), record(64 * 1024**2), FOLDER],
    "a long name": [header(tarfile.GNUTYPE_LONGNAME, 64 * 1024**2), b"a" * 64 * 1024**2, FOLDER],
    "a sparse file": [sparse_header(), *[(b"00000000001\0" * 42)[:504] + b"\1" + bytes(7)] * 20_000],
    "headers for all": [
        header(tarfile.XGLTYPE, len(MANY)),
        MANY,
        bytes(-len(MANY) % 512),
        *[FOLDER] * 99,
    ],
    "many pax headers": [header(tarfile.XHDTYPE, 16_384), record(16_384), FOLDER] * 2_000,
    "pax headers without end": [header(tarfile.XHDTYPE, 0)] * 3_000,
}


@pytest.mark.parametrize("bad", HEADERS)
def test_large_headers_are_refused_before_they_are_read(models: Path, tmp_path: Path, bad: str) -> None:
    with gzip.open(tmp_path / "bad.tar.gz", "wb", compresslevel=1) as file:
        file.writelines([*HEADERS[bad], bytes(1024)])
    tracemalloc.start()
    try:
        with pytest.raises(AddFailed, match=r"bad\.tar\.gz: cannot be read"):
            added(str(tmp_path / "bad.tar.gz"), models, ONE_THREAD)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert_nothing_left(models)


def test_what_packers_say_of_all_and_of_each_file_is_fine(
    version: Path, models: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "packed.tar.gz"
    headers = {"comment": "0" * 40}
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        tar.add(version, arcname="d" * 200 + "/3", filter=lambda info: info.replace(mtime=1.5, deep=False))
    added(str(archive), models, ONE_THREAD)
    assert names(models / "ner-en/3") == LISTED


def test_a_manifest_that_is_too_large_is_refused(version: Path, models: Path) -> None:
    (version / MANIFEST).write_bytes(b"[" * 5 * 1024**2)
    with pytest.raises(VersionRefused, match=r"manifest\.json has 4194305 bytes, more than the 4194304"):
        added(str(version), models, ONE_THREAD)
    assert_nothing_left(models)
