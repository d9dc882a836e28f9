"""CoNLL columns: a token a line, blank lines between sentences, any tag scheme."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from app.engine.decoding import Scheme
from training.data.documents import Document, Span
from training.data.tags import detect_scheme, plain_tag, read_runs


class Sentence(NamedTuple):
    """One sentence as its file spells it: where it starts, its tokens and tags, its document."""

    line: int
    tokens: list[str]
    tags: list[str]
    group: str


def read_sentences(path: Path, token_column: int = 0, tag_column: int = -1) -> Iterator[Sentence]:
    """The sentences of a file. `-DOCSTART-` lines part documents; other columns are ignored.

    Raises:
        ValueError: a line has too few columns, or its tag is none.
    """
    article = 0
    tokens: list[str] = []
    tags: list[str] = []
    first = 1
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate([*lines, ""], 1):
            line = line.rstrip("\r\n")
            if not line.strip() or line.startswith("-DOCSTART-"):
                article += line.startswith("-DOCSTART-")
                if tokens:
                    yield Sentence(first, tokens, tags, f"{path.name}:{article}" if article else "")
                tokens, tags = [], []
                continue
            fields = line.split("\t") if "\t" in line else line.split()
            if len(fields) < 2:
                raise ValueError(f"{path}:{number}: {line!r} has no tag column")
            tag = plain_tag(fields[tag_column])
            if tag != "O" and (len(tag) < 3 or tag[1] != "-" or tag[0] not in "BIES"):
                raise ValueError(f"{path}:{number}: {fields[tag_column]!r} is no tag")
            if not tokens:
                first = number
            if fields[token_column].strip():
                tokens.append(fields[token_column].strip())
                tags.append(tag)


def read(
    path: Path,
    scheme: Scheme | None = None,
    token_column: int = 0,
    tag_column: int = -1,
) -> Iterator[Document]:
    """Documents of one sentence each, tokens joined by blanks.

    Args:
        scheme: `IO`, `IOB1`, `IOB2` or `BIOES`; found from the tags where not given.
    """
    sentences = list(read_sentences(path, token_column, tag_column))
    scheme = scheme or detect_scheme(sentence.tags for sentence in sentences)
    for line, tokens, tags, group in sentences:
        starts = [0]
        for token in tokens:
            starts.append(starts[-1] + len(token) + 1)
        spans = tuple(
            Span(starts[first], starts[last] + len(tokens[last]), label)
            for first, last, label in read_runs(tags, scheme)
        )
        yield Document(f"{path.name}:{line}", " ".join(tokens), spans, group)
