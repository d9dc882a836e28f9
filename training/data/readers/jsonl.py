"""This reader takes lines like `{"text": "…", "entities": [{"start": 0, "end": 6, "label": "PER"}]}`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.documents import Document, Span
from training.data.json_lines import json_lines

_WANTED = "reader 'jsonl'"


def read(path: Path) -> Iterator[Document]:
    """Read one document from each line.

    Offsets are code points, ends exclusive. As annotation tools write them, `entities` may be named
    `spans` or `label`, and an entity may be a list `[start, end, label]`.

    Raises:
        ValueError: a line has another form, or a span leaves its text, is empty, or overlaps another.
    """
    with path.open(encoding="utf-8-sig") as lines:
        for number, record in json_lines(lines, path, _WANTED):
            yield _document(path, number, record)


def _document(path: Path, number: int, record: Any) -> Document:
    place = f"{path}:{number}"
    try:
        found: list[Any] = next((record[k] for k in ("entities", "spans", "label") if k in record), [])
        spans = tuple(sorted(map(_span, found)))
        text, group = record["text"] + "", str(record.get("group", ""))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: not in the format of {_WANTED}: {error!r}") from error
    last = 0
    for span in spans:
        if not last <= span.start < span.end <= len(text):
            raise ValueError(
                f"{place}: entity {tuple(span)} is empty, overlaps another or leaves the text of "
                f"{len(text)} characters"
            )
        last = span.end
    return Document(f"{path.name}:{number}", text, spans, group)


def _span(item: dict[str, Any] | list[Any]) -> Span:
    start, end, label = item if isinstance(item, list) else (item["start"], item["end"], item["label"])
    return Span(int(start), int(end), str(label))
