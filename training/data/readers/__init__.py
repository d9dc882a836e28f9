"""Readers: one module a corpus format, each `read(path, **options)` giving documents.

A new format is one module and one line in `READERS`; one of tagged tokens also in `TAGGED`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from training.data.documents import Document
from training.data.readers import conll, jsonl, re3d, redocred, uner
from training.data.tags import TaggedFile

Read = TypeVar("Read")

READERS: dict[str, Callable[..., Iterator[Document]]] = {
    "conll": conll.read,
    "jsonl": jsonl.read,
    "re3d": re3d.read,
    "redocred": redocred.read,
    "uner": uner.read,
}


TAGGED: dict[str, Callable[..., TaggedFile]] = {
    "conll": conll.read_tagged,
    "uner": uner.read_tagged,
}

Options = dict[str, str | int | bool]


def read(reader: str, path: Path, options: Options) -> list[Document]:
    """All documents of one file (or folder, where the format is one).

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: it is not in the reader's format.
    """
    return _tried(reader, path, lambda: list(READERS[reader](path, **options)))


def read_tagged(reader: str, path: Path, options: Options) -> TaggedFile | None:
    """The same file as tags, or None where the format has none. As `read`."""
    if reader not in TAGGED:
        return None
    return _tried(reader, path, lambda: TAGGED[reader](path, **options))


def _tried(reader: str, path: Path, attempt: Callable[[], Read]) -> Read:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check data_root in the recipe")
    try:
        return attempt()
    except (
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        UnicodeDecodeError,
        json.JSONDecodeError,
    ) as error:
        raise ValueError(f"{path}: not in the format of reader {reader!r}: {error!r}") from error
