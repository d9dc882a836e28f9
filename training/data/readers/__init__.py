"""Readers: one module a corpus format, each `read(path, **options)` giving documents.

A new format is one module and one line in `READERS`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from training.data.documents import Document
from training.data.readers import conll, jsonl, re3d, redocred, uner

READERS: dict[str, Callable[..., Iterator[Document]]] = {
    "conll": conll.read,
    "jsonl": jsonl.read,
    "re3d": re3d.read,
    "redocred": redocred.read,
    "uner": uner.read,
}


def read(reader: str, path: Path, options: dict[str, str | int | bool]) -> list[Document]:
    """All documents of one file (or folder, where the format is one)."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check data_root in the recipe")
    try:
        return list(READERS[reader](path, **options))
    except (KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not in the format of reader {reader!r}: {error!r}") from error
