"""This reader takes a folder of re3d: `documents.json` and `entities.json`, with character offsets."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.documents import Document, Span
from training.data.json_lines import json_lines


def read(path: Path) -> Iterator[Document]:
    """Read one document from each paragraph. Entities may nest: clean with `nested` after `names`."""
    spans = defaultdict(list)
    for entity in _lines(path / "entities.json"):
        spans[entity["documentId"]].append(Span(entity["begin"], entity["end"], entity["type"]))
    for document in _lines(path / "documents.json"):
        text, found = document["text"], spans[document["_id"]]
        for number, paragraph in enumerate(re.finditer(r"\S[^\n]*", text)):
            start, end = paragraph.span()
            inside = {
                Span(span.start - start, span.end - start, span.label)
                for span in found
                if start <= span.start and span.end <= end
            }
            yield Document(
                f"{path.name}:{document['_id']}:{number}",
                paragraph.group(),
                tuple(sorted(inside)),
                f"{path.name}:{document['_id']}",
            )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for _, value in json_lines(lines, path, "reader 're3d'"):
            yield value
