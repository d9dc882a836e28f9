"""This reader takes Universal NER: `id token tag …` columns, IOB2, the text in a `# text =` comment."""

from collections.abc import Iterator
from pathlib import Path

from training.data.documents import Document
from training.data.tags import TaggedFile, TaggedSentence


def read(path: Path) -> Iterator[Document]:
    """Read one document from each sentence, with its raw text; see `read_tagged`."""
    return read_tagged(path).documents()


def read_tagged(path: Path) -> TaggedFile:
    """Read the sentences of a file; `# newdoc id` names the article, and a tag `B-O` is read as `O`.

    Raises:
        ValueError: a sentence has no `# text =`, or that text lacks a token.
    """
    return TaggedFile(path, "IOB2", tuple(_sentences(path)))


def _sentences(path: Path) -> Iterator[TaggedSentence]:
    group = text = ""
    rows: list[tuple[str, str, int]] = []
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate([*lines, ""], 1):
            line = line.rstrip("\r\n")
            if line.startswith("# newdoc id"):
                group = line.partition("=")[2].strip()
            elif line.startswith("# text ="):
                text = line.partition("=")[2].strip()
            elif line and not line.startswith("#"):
                fields = line.split("\t")
                tag = "O" if fields[2][2:] in ("", "O") else fields[2]
                rows.append((fields[1], tag, number))
            elif not line:
                if rows:
                    tokens, tags, numbers = zip(*rows, strict=True)
                    starts = _starts(f"{path}:{numbers[0]}", text, tokens)
                    yield TaggedSentence(text, starts, tokens, tags, numbers, group)
                text, rows = "", []


def _starts(place: str, text: str, tokens: tuple[str, ...]) -> list[int]:
    starts: list[int] = []
    at = 0
    for token in tokens:
        found = text.find(token, at)
        if found < 0:
            raise ValueError(f"{place}: token {token!r} does not stand in its text {text!r}")
        starts.append(found)
        at = found + len(token)
    return starts
