"""JSON lines: the one place where training reads one JSON value a line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def json_lines(lines: Iterable[str | bytes], path: Path, wanted: str) -> Iterator[tuple[int, Any]]:
    """The number of each line, the first being 1, and its value; blank lines hold none.

    Args:
        path: the file that the lines come from, for the message.
        wanted: what reads them, for the message, such as "reader 'jsonl'".

    Raises:
        ValueError: a line is not JSON; the message names it.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not in the format of {wanted}: {error!r}") from error
            yield number, value
