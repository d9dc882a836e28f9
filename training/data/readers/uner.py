"""Universal NER: `id token tag …` columns, IOB2, with the raw text in a `# text =` comment."""

from collections.abc import Iterator
from pathlib import Path

from training.data.documents import Document, Span
from training.data.tags import read_runs


def read(path: Path) -> Iterator[Document]:
    """One document a sentence, over its raw text; `# newdoc id` names the article.

    Tags without a label (`B-O`) are read as `O`.
    """
    group = text = ""
    first = 1
    tokens: list[str] = []
    tags: list[str] = []
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate([*lines, ""], 1):
            line = line.rstrip("\r\n")
            if line.startswith("# newdoc id"):
                group = line.partition("=")[2].strip()
            elif line.startswith("# text ="):
                text, first = line.partition("=")[2].strip(), number
            elif line and not line.startswith("#"):
                fields = line.split("\t")
                tokens.append(fields[1])
                tags.append("O" if fields[2][2:] in ("", "O") else fields[2])
            elif not line and tokens:
                yield Document(
                    f"{path.name}:{first}",
                    text,
                    _spans(path, text, tokens, tags),
                    group,
                )
                tokens, tags = [], []


def _spans(path: Path, text: str, tokens: list[str], tags: list[str]) -> tuple[Span, ...]:
    starts: list[int] = []
    at = 0
    for token in tokens:
        found = text.find(token, at)
        if found < 0:
            raise ValueError(f"{path}: token {token!r} does not stand in its text {text!r}")
        starts.append(found)
        at = found + len(token)
    return tuple(
        Span(starts[first], starts[last] + len(tokens[last]), label)
        for first, last, label in read_runs(tags, "IOB2")
    )
