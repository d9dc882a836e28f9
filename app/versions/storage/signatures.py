"""A signature shows who made a version.

`manifest.json.sig` holds an Ed25519 signature over the exact bytes of `manifest.json`, in base64. The
manifest lists the size and SHA-256 of each file, so the signature covers the whole version once the
files are checked against it and nothing else lies in the folder. Keys are PEM files as openssl makes them:

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out public.pem
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from app.errors import NerveError, SettingsError, VersionRefused
from app.files import OddFile, read_bytes, write_whole
from app.manifest import MANIFEST, Manifest, manifest_bytes, parse_manifest, unreadable, verify_files
from app.versions.storage.repository import fingerprint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = f"{MANIFEST}.sig"

UNLISTED = frozenset({MANIFEST, SIGNATURE, "README.md"})
"""Files that a version may have although no manifest lists them. None of them is loaded."""

_LINE = 64
"""Characters of a line, as in PEM files, because `openssl base64 -d` reads no longer lines."""
_MOST_BYTES = 4096
"""Most bytes of a signature file; a valid one has about 90."""


class SigningFailed(NerveError):
    """Says that a version cannot be signed."""

    code = "signing_failed"


def sign(folder: Path, key: Path) -> Path:
    """Check a version's files, sign its manifest, and return the path of the signature.

    Args:
        key: path of an Ed25519 private key, PEM, without a password.

    Raises:
        VersionRefused: the manifest is wrong, a file differs from it, or it does not list one.
        SigningFailed: the key is missing or invalid, or the signature cannot be written.
        SettingsError: the cryptography library is not installed.
    """
    private = _private_key(key)
    read = manifest_bytes(folder)
    manifest = parse_manifest(folder, read)
    verify_files(folder, manifest)
    check_unlisted(folder, manifest)
    content = base64.b64encode(private.sign(read)).decode()
    lines = [content[start : start + _LINE] for start in range(0, len(content), _LINE)]
    path = folder / SIGNATURE
    try:
        write_whole(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise SigningFailed(
            f"{path}: cannot be written: {error}; make room, or the folder writable"
        ) from error
    return path


def check_signature(folder: Path, trusted: Sequence[Path], content: bytes) -> None:
    """Check that one of the trusted keys signed a version's manifest, and so every file that it lists.

    `verify_files` checks that the files are what the manifest says, `check_unlisted` that there is none
    else.

    Args:
        trusted: Ed25519 public keys, as PEM files or folders of them.
        content: content of the manifest, read once: what is checked here is what is parsed.

    Raises:
        VersionRefused: the signature is missing, unreadable, or by another key.
        NotChecked: this machine cannot read the signature.
        SettingsError: a trusted key is missing or invalid, or the cryptography library is not installed.
    """
    where = f"{folder.parent.name}/{folder.name}"
    keys = [_public_key(path) for path in _key_files(trusted)]
    signature = _read_signature(where, folder / SIGNATURE)
    if not any(_signed_by(key, signature, content) for key in keys):
        raise VersionRefused(
            f"{where}: {SIGNATURE} is by none of the {len(keys)} trusted keys, or {MANIFEST} was changed "
            f"since; restore it, sign it again (nerve models sign {where} --key FILE), or add its signer's "
            "public key to NERVE_TRUSTED_KEYS"
        )


def check_unlisted(folder: Path, manifest: Manifest) -> None:
    """Check that a version's folder holds no file that the manifest does not list.

    The README and the signature need not be listed, nor do hidden files, which no version can load either.

    Raises:
        VersionRefused: there is another file.
    """
    folders = {str(parent) for name in manifest.files for parent in PurePosixPath(name).parents}
    for name, *_ in fingerprint(folder):
        parts = PurePosixPath(name).parts
        if any(part.startswith(".") for part in parts) or name in UNLISTED | manifest.files.keys():
            continue
        if name not in folders:
            raise VersionRefused(
                f"{folder.parent.name}/{folder.name}: holds {name}, which {MANIFEST} does not list, so no "
                "signature covers it; remove it, or export the version again"
            )


def _read_signature(where: str, path: Path) -> bytes:
    try:
        content = read_bytes(path, _MOST_BYTES)
    except FileNotFoundError:
        raise VersionRefused(
            f"{where}: {SIGNATURE} is missing, and NERVE_TRUSTED_KEYS asks for one; "
            f"sign it (nerve models sign {where} --key FILE)"
        ) from None
    except (OSError, OddFile) as error:
        raise unreadable(where, SIGNATURE, error) from error
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error as error:
        raise VersionRefused(
            f"{where}: {SIGNATURE} is no base64 ({error}); copy it again, or sign it again "
            f"(nerve models sign {where} --key FILE)"
        ) from None


def _signed_by(key: "Ed25519PublicKey", signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _key_files(trusted: Sequence[Path]) -> list[Path]:
    """Return the files of the trusted keys: named files, and all files of folders but hidden ones."""
    files: list[Path] = []
    for path in trusted:
        if not path.is_dir():
            files.append(path)
            continue
        try:
            inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
        except OSError as error:
            raise SettingsError(
                f"NERVE_TRUSTED_KEYS: {path} cannot be read: {error}; make it so"
            ) from error
        if not inside:
            raise SettingsError(f"NERVE_TRUSTED_KEYS: {path} holds no key; put public keys (PEM) into it")
        files += inside
    return files


def _public_key(path: Path) -> "Ed25519PublicKey":
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"NERVE_TRUSTED_KEYS: {path} cannot be read: {error}; put the key there, or take it out"
        ) from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(
            f"NERVE_TRUSTED_KEYS: {path} is no Ed25519 public key (PEM); "
            f"make it from the private one: openssl pkey -in KEY -pubout -out {path.name}"
        )
    return key


def _private_key(path: Path) -> "Ed25519PrivateKey":
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise SigningFailed(f"{path}: the key cannot be read: {error}; name a key file") from error
    except TypeError:  # the library raises TypeError if the key has a password
        raise SigningFailed(
            f"{path}: the key has a password; give one without: openssl pkey -in {path.name} -out plain.pem"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningFailed(
            f"{path}: no Ed25519 private key (PEM); "
            "make one: openssl genpkey -algorithm ed25519 -out key.pem"
        )
    return key


def _require_library() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"signatures need the cryptography library ({error}); pip install 'nerve-ner[signing]'"
        ) from None
