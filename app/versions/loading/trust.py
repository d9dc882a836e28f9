"""Trust decides whether a version may be loaded at all, before anything of it is parsed or run."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from app.errors import VersionRefused
from app.manifest import MAX_FILES, Manifest, manifest_bytes, parse_manifest
from app.versions.loading.options import LoadOptions
from app.versions.loading.refusals import refusing, where_of
from app.versions.storage.repository import CROWDED, fingerprint
from app.versions.storage.revocations import check_created, check_revoked
from app.versions.storage.signatures import check_signature, check_unlisted


@dataclass(frozen=True)
class Trusted:
    """Holds a manifest that may be trusted, and the SHA-256 of the file that it was parsed from."""

    manifest: Manifest
    sha256: str


def read_trusted(folder: Path, options: LoadOptions) -> Trusted:
    """Read a version's manifest once, and check that the options allow to load the version.

    Raises:
        VersionRefused: it is wrong, revoked or too old, or no trusted key signed it; or the folder holds
            what it may not.
        NotChecked: a trusted key or the list of what is revoked is missing or wrong, or this machine cannot
            read a file.
    """
    with refusing(where_of(folder), "cannot be trusted"):
        return check_trust(folder, options)


def check_trust(folder: Path, options: LoadOptions) -> Trusted:
    """Do as `read_trusted`.

    Raises:
        SettingsError: a trusted key or the list of what is revoked is missing or wrong.
        VersionRefused, NotChecked: see `read_trusted`.
    """
    content = manifest_bytes(folder)
    if options.revoked:
        check_revoked(folder, content, options.revoked)
    if options.trusted_keys:
        check_signature(folder, options.trusted_keys, content)
    manifest = parse_manifest(folder, content)
    if options.trusted_since:
        check_created(folder, manifest, options.trusted_since)
    if any(name == CROWDED for name, *_ in fingerprint(folder)):
        raise VersionRefused(
            f"{where_of(folder)}: holds more than {MAX_FILES} files and folders; keep only its own"
        )
    if options.trusted_keys:
        check_unlisted(folder, manifest)
    return Trusted(manifest, hashlib.sha256(content).hexdigest())
