"""Logs are lines for people or JSON objects for machines, one a message. No request's text is logged."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; the record's `extra` become fields of the object."""

    _encode = staticmethod(json.JSONEncoder(default=str).encode)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _PLAIN},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return self._encode(line)


class TextFormatter(logging.Formatter):
    """Formats a record as one line; characters that would break it, such as line feeds, are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self._last = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if self._last[0] != second:  # formatted once a second, which saves time
            self._last = (second, super().formatTime(record, datefmt))
        return self._last[1]

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        if line.isprintable():
            return line
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def configure_logging(level: str, style: Literal["text", "json"]) -> None:
    """Send all logs to standard error, uvicorn's too."""
    # Finding the source line and the thread would take half of the time of a message; none shows them.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    logging.getLogger("filelock").setLevel(logging.WARNING)


def _is_news(record: logging.LogRecord) -> bool:
    """Say whether a record of uvicorn tells of a fault that the log of requests does not: its callers hang
    up, and at the server's end it cancels what still runs."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, asyncio.CancelledError):
        return False
    return record.msg != "ASGI callable returned without completing response."
