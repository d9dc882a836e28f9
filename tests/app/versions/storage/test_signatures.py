"""Signing: a version that one of the trusted keys signed passes, and no other."""

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PublicFormat,
)

from app.errors import SettingsError, VersionRefused
from app.manifest import MANIFEST, manifest_bytes
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from app.versions.storage.signatures import SIGNATURE, SigningFailed, check_signature, sign
from tests.keys import write_keys
from tests.tiny import edit_manifest


@pytest.fixture
def version(models_dir: Path) -> Path:
    return models_dir / "ner-en" / "1"


def test_a_signed_version_passes(version: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ours")
    assert sign(version, private) == version / SIGNATURE
    check_signature(version, [public], manifest_bytes(version))
    load_version(version, LoadOptions(threads=1, trusted_keys=(public,))).close()
    assert {path.name for path in version.iterdir()} == {
        MANIFEST,
        SIGNATURE,
        "model.fp32.onnx",
        "tokenizer.json",
    }


def test_any_key_of_a_folder_will_do(version: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ours")
    _, theirs = write_keys(tmp_path, "theirs")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / ".hidden").write_text("no key")
    shutil.copy(theirs, trusted)
    sign(version, private)
    with pytest.raises(VersionRefused, match="none of the 1 trusted keys"):
        check_signature(version, [trusted], manifest_bytes(version))
    shutil.copy(public, trusted)
    check_signature(version, [trusted], manifest_bytes(version))


def test_an_unsigned_version_is_refused(version: Path, tmp_path: Path) -> None:
    _, public = write_keys(tmp_path, "ours")
    with pytest.raises(VersionRefused, match=r"missing.*nerve models sign ner-en/1 --key FILE"):
        check_signature(version, [public], manifest_bytes(version))


def test_a_changed_manifest_is_refused(version: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ours")
    sign(version, private)
    edit_manifest(version, description="Something else.")
    with pytest.raises(VersionRefused, match=r"was changed since"):
        check_signature(version, [public], manifest_bytes(version))


@pytest.mark.parametrize("content", [b"\x00\xff nothing", b"AAA", b"not/base64!"])
def test_a_signature_that_is_no_base64_is_refused(version: Path, tmp_path: Path, content: bytes) -> None:
    _, public = write_keys(tmp_path, "ours")
    (version / SIGNATURE).write_bytes(content)
    with pytest.raises(VersionRefused, match=r"no base64.*sign it again"):
        check_signature(version, [public], manifest_bytes(version))


@pytest.mark.parametrize("content", [b"", base64.b64encode(b"short")])
def test_a_signature_of_another_length_is_refused(version: Path, tmp_path: Path, content: bytes) -> None:
    _, public = write_keys(tmp_path, "ours")
    (version / SIGNATURE).write_bytes(content)
    with pytest.raises(VersionRefused, match="none of the 1 trusted keys"):
        check_signature(version, [public], manifest_bytes(version))


def test_a_trusted_key_must_be_there_and_be_one(version: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ours")
    sign(version, private)
    with pytest.raises(SettingsError, match=r"nowhere\.pem cannot be read"):
        check_signature(version, [public, tmp_path / "nowhere.pem"], manifest_bytes(version))
    with pytest.raises(SettingsError, match=r"ours\.key is no Ed25519 public key.*openssl pkey"):
        check_signature(version, [private], manifest_bytes(version))
    curve = tmp_path / "curve.pem"
    curve.write_bytes(
        generate_private_key(SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(SettingsError, match="no Ed25519 public key"):
        check_signature(version, [curve], manifest_bytes(version))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="holds no key"):
        check_signature(version, [tmp_path / "empty"], manifest_bytes(version))


def test_a_version_whose_files_differ_is_not_signed(version: Path, tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path, "ours")
    (version / "model.fp32.onnx").write_bytes(b"something else")
    with pytest.raises(VersionRefused, match="the manifest says"):
        sign(version, private)
    assert not (version / SIGNATURE).exists()


def test_signing_needs_a_private_key_without_a_password(version: Path, tmp_path: Path) -> None:
    _, public = write_keys(tmp_path, "ours")
    locked, _ = write_keys(tmp_path, "locked", BestAvailableEncryption(b"secret"))
    with pytest.raises(SigningFailed, match="no Ed25519 private key"):
        sign(version, public)
    with pytest.raises(SigningFailed, match="has a password"):
        sign(version, locked)
    with pytest.raises(SigningFailed, match="cannot be read"):
        sign(version, tmp_path / "nowhere.key")


def test_openssl_makes_the_keys_and_checks_the_signature(version: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("there is no openssl command on this machine")
    private, public, raw = tmp_path / "o.key", tmp_path / "o.pem", tmp_path / "raw"

    def run(*arguments: str | Path) -> int:
        return subprocess.run([openssl, *arguments], capture_output=True, check=False).returncode

    assert run("genpkey", "-algorithm", "ed25519", "-out", private) == 0
    assert run("pkey", "-in", private, "-pubout", "-out", public) == 0
    signature = sign(version, private)
    check_signature(version, [public], manifest_bytes(version))
    assert run("base64", "-d", "-in", signature, "-out", raw) == 0
    verify = ("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-sigfile", raw, "-in")
    assert run(*verify, version / MANIFEST) == 0
    assert run(*verify, version / "tokenizer.json") != 0


def test_without_the_library_the_error_says_how_to_get_it(version: Path, tmp_path: Path) -> None:
    _, public = write_keys(tmp_path, "ours")
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from app.versions.storage.signatures import check_signature\n"
        f"check_signature(Path({str(version)!r}), [Path({str(public)!r})], b'')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'nerve-ner[signing]'" in done.stderr


def test_what_the_manifest_does_not_list_is_not_signed_and_not_loaded(
    version: Path, tmp_path: Path
) -> None:
    private, public = write_keys(tmp_path, "ours")
    trusting = LoadOptions(threads=1, trusted_keys=(public,))
    sign(version, private)
    (version / "README.md").write_text("a model card")
    (version / ".DS_Store").write_bytes(b"what a desktop leaves")
    load_version(version, trusting).close()
    (version / "sub").mkdir()
    (version / "sub/weights.bin").write_bytes(b"other weights")
    reason = r"ner-en/1: holds sub.*, which manifest\.json does not list, so no signature covers it; remove"
    for call in (lambda: load_version(version, trusting), lambda: sign(version, private)):
        with pytest.raises(VersionRefused, match=reason):
            call()
    load_version(version, LoadOptions(threads=1)).close()
