"""This module reads files with one JSON value on each line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def json_lines(lines: Iterable[str | bytes], path: Path, wanted: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of each line, counted from 1, and its value; blank lines are skipped.

    Args:
        path: the file of the lines, for the message.
        wanted: the name of the format, for the message, such as "reader 'jsonl'".

    Raises:
        ValueError: a line is not JSON; the message names the line.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not in the format of {wanted}: {error!r}") from error
            yield number, value
