"""Revocations withdraw the trust in versions that were signed once.

A signature never expires, so whoever can write to the models folder could bring back an old version with a
known fault. `NERVE_REVOKED` names versions that are refused whatever their signature says, and
`NERVE_TRUSTED_SINCE` refuses all versions that were made before a time.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from app.errors import SettingsError, VersionRefused
from app.files import OddFile, read_bytes
from app.manifest import MANIFEST, Manifest

_MOST_BYTES = 1024**2
"""Most bytes of the file, enough for 15,000 versions."""


def check_revoked(folder: Path, content: bytes, revoked: Path) -> None:
    """Check that a version is not revoked.

    Args:
        content: content of its manifest.
        revoked: file with a version (`<name>/<version>`) or the SHA-256 of a `manifest.json` on each line;
            what follows a `#` is a comment.

    Raises:
        VersionRefused: the version is revoked.
        SettingsError: the file cannot be read.
    """
    where = f"{folder.parent.name}/{folder.name}"
    try:
        lines = read_bytes(revoked, _MOST_BYTES).decode(errors="replace").splitlines()
    except (OSError, OddFile) as error:
        raise SettingsError(
            f"NERVE_REVOKED: {revoked} cannot be read: {error}; put the list there, or name none"
        ) from error
    names = {line.partition("#")[0].strip() for line in lines}
    for name in (where, hashlib.sha256(content).hexdigest()):
        if name in names:
            raise VersionRefused(
                f"{where}: is revoked, {revoked.name} names it ({name}); activate another version"
            )


def check_created(folder: Path, manifest: Manifest, since: datetime) -> None:
    """Check that a version was made after a time. A time without a zone is in UTC.

    Raises:
        VersionRefused: it was made before, or its manifest does not say when.
    """
    where = f"{folder.parent.name}/{folder.name}"
    try:
        created = _in_utc(datetime.fromisoformat(manifest.created))
    except ValueError:
        raise VersionRefused(
            f"{where}: {MANIFEST} does not say when it was created (created is {manifest.created[:40]!r}, "
            "which is no ISO 8601), and NERVE_TRUSTED_SINCE asks for it; export it again"
        ) from None
    if created < _in_utc(since):
        raise VersionRefused(
            f"{where}: was created {created.isoformat()}, before NERVE_TRUSTED_SINCE "
            f"({_in_utc(since).isoformat()}); activate a newer version"
        )


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
