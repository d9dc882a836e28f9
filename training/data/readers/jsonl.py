"""JSON lines with offsets: `{"text": "…", "entities": [{"start": 0, "end": 6, "label": "PER"}]}`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.documents import Document, Span


def read(path: Path) -> Iterator[Document]:
    """One document a line.

    Offsets are code points, ends exclusive. `entities` may also be spelled `spans` or `label`, and
    each be a `[start, end, label]` list, as annotation tools write them.

    Raises:
        ValueError: a span lies outside its text, is empty, or overlaps another.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            record = json.loads(line)
            found: list[Any] = next((record[k] for k in ("entities", "spans", "label") if k in record), [])
            spans = tuple(sorted(_span(item) for item in found))
            text = record["text"]
            last = 0
            for span in spans:
                if not last <= span.start < span.end <= len(text):
                    raise ValueError(
                        f"{path}:{number}: entity {tuple(span)} is empty, overlaps another or "
                        f"leaves the text of {len(text)} characters"
                    )
                last = span.end
            yield Document(f"{path.name}:{number}", text, spans, str(record.get("group", "")))


def _span(item: dict[str, Any] | list[Any]) -> Span:
    start, end, label = item if isinstance(item, list) else (item["start"], item["end"], item["label"])
    return Span(int(start), int(end), str(label))
