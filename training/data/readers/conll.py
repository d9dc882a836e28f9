"""This reader takes CoNLL columns: one token on each line, blank lines between sentences, any scheme."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from app.labels import Scheme
from training.data.documents import Document
from training.data.tags import TaggedFile, TaggedSentence, detect_scheme, plain_tag


def read(
    path: Path, scheme: Scheme | None = None, token_column: int = 0, tag_column: int = -1
) -> Iterator[Document]:
    """Read one document for each sentence, tokens joined by blanks; see `read_tagged`."""
    return read_tagged(path, scheme, token_column, tag_column).documents()


def read_tagged(
    path: Path, scheme: Scheme | None = None, token_column: int = 0, tag_column: int = -1
) -> TaggedFile:
    """Read the sentences of a file. A `-DOCSTART-` line starts an article; other columns are ignored.

    Args:
        scheme: `IO`, `IOB1`, `IOB2` or `BIOES`; None detects it from the tags.
        token_column, tag_column: counted from 0, or from the end with -1.

    Raises:
        ValueError: the scheme is unknown, a line has too few columns, or its tag is no tag.
    """
    if scheme not in (None, *get_args(Scheme)):
        raise ValueError(f"{path}: scheme {scheme!r} is none of {', '.join(get_args(Scheme))}")
    sentences = tuple(_sentences(path, token_column, tag_column))
    return TaggedFile(path, scheme or detect_scheme(s.tags for s in sentences), sentences)


def _sentences(path: Path, token_column: int, tag_column: int) -> Iterator[TaggedSentence]:
    article = 0
    rows: list[tuple[str, str, int]] = []
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate([*lines, ""], 1):
            line = line.rstrip("\r\n")
            if line.strip() and not line.startswith("-DOCSTART-"):
                token, tag = _row(f"{path}:{number}", line, token_column, tag_column)
                if token:
                    rows.append((token, tag, number))
                continue
            if rows:
                tokens, tags, numbers = zip(*rows, strict=True)
                starts = [0]
                for token in tokens[:-1]:
                    starts.append(starts[-1] + len(token) + 1)
                group = f"{path.name}:{article}" if article else ""
                yield TaggedSentence(" ".join(tokens), starts, tokens, tags, numbers, group)
            rows = []
            article += line.startswith("-DOCSTART-")


def _row(place: str, line: str, token_column: int, tag_column: int) -> tuple[str, str]:
    fields = line.split("\t") if "\t" in line else line.split()
    needed = max(column + 1 if column >= 0 else -column for column in (1, token_column, tag_column))
    if len(fields) < needed:
        raise ValueError(f"{place}: {line!r} has {len(fields)} columns, {needed} are needed")
    tag = plain_tag(fields[tag_column].strip())
    if tag != "O" and (len(tag) < 3 or tag[1] != "-" or tag[0] not in "BIES"):
        raise ValueError(f"{place}: {fields[tag_column]!r} is no tag; check tag_column")
    return fields[token_column].strip(), tag
