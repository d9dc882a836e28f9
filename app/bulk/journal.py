"""Journal records the progress of a run in a file beside its output, so that a killed run can be continued.

It is written once the outputs are safe on disk. A continued run cuts off what was written after that.
"""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from app.bulk.errors import JournalDiffers
from app.files import write_whole

_HEAD = 65_536


class InputIdentity(BaseModel):
    """Identifies an input; for standard input only the format is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    size: int | None = None
    modified_ns: int | None = None
    sha256_of_head: str | None = None


class Setup(BaseModel):
    """Holds what must be the same for a run to be continued."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: InputIdentity
    output_format: str
    field: str
    model: str
    version: int
    manifest_sha256: str
    provider: str
    variant: str
    labels: list[str] | None
    min_score: float
    offset_unit: str
    max_text_chars: int


class Journal(BaseModel):
    """Holds the progress of a run.

    Attributes:
        number, offset, digest: the `Position` up to which the input is done.
        records, entities: how many were written.
        output, rejects: how much of these files is complete: bytes, or parts of a Parquet file.
        rejected: the number of records set aside, by code.
        finished: whether all is written; the files may still have to be renamed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    setup: Setup
    number: int = 0
    offset: int = 0
    digest: str | None = None
    records: int = 0
    entities: int = 0
    output: int = 0
    rejects: int = 0
    rejected: dict[str, int] = {}
    finished: bool = False

    def write(self, path: Path) -> None:
        """Replace the journal's file."""
        write_whole(path, self.model_dump_json(indent=1) + "\n")


def identify(path: Path | None, form: str) -> InputIdentity:
    """Return the identity of an input; `path` is None for standard input."""
    if path is None:
        return InputIdentity(format=form)
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEAD)).hexdigest()
    stat = path.stat()
    return InputIdentity(format=form, size=stat.st_size, modified_ns=stat.st_mtime_ns, sha256_of_head=head)


def read_journal(path: Path, setup: Setup) -> Journal | None:
    """Return the journal of an earlier run with the same setup; None if there was no run.

    Raises:
        JournalDiffers: the setup differs, or the journal cannot be read.
    """
    try:
        journal = Journal.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise JournalDiffers(
            f"{path}: is no journal of this version of Nerve; start anew with --restart"
        ) from None
    was, now = _flat(journal.setup.model_dump()), _flat(setup.model_dump())
    differences = [f"{name} was {was[name]} and is {now[name]}" for name in was if was[name] != now[name]]
    if differences:
        raise JournalDiffers(
            f"{path}: what is half done was begun otherwise: {'; '.join(differences)}; give what it was "
            "begun with, or start anew with --restart"
        )
    return journal


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in fields.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        flat.update(inner)
    return flat
