"""Each module of this package reads one corpus format with `read(path, **options)`.

Add a new format as one module and one line in `READERS`, and in `TAGGED` if its tokens have tags.
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
    """Read all documents of one file, or of one folder for a format such as `re3d`.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the file is not in the reader's format.
    """
    return _tried(reader, path, lambda: list(READERS[reader](path, **options)))


def read_tagged(reader: str, path: Path, options: Options) -> TaggedFile | None:
    """Read the tags of one file, or return None for a format without tags; raises as `read`."""
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
