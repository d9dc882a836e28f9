"""Joining is a transport that sends the head of an answer together with its body.

uvicorn writes them one after the other, and uvloop sends each at once. That makes two packets, takes the
system's work twice, and wakes the caller twice.
"""

import asyncio
from collections.abc import Callable
from typing import Any

_HEAD = b"HTTP/1."


class Joining:
    """Keeps an answer's head until the next write, or until the event loop's next turn, and sends both in
    one write. What is written after the end goes nowhere. It passes everything else to the transport.

    Args:
        close: what to do instead of closing at once.

    Attributes:
        written: how many bytes were written.
    """

    __slots__ = ("_close", "_ended", "_head", "_loop", "_transport", "written")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None]
    ):
        self._transport = transport
        self._loop = loop
        self._close = close
        self._head = b""
        self._ended = False
        self.written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, or keep it for a moment if it is an answer's head."""
        if self._ended or self._transport.is_closing():  # uvloop would raise; the caller may be gone
            return
        self.written += len(data)
        if self._head and data:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close in the way of the connection."""
        if not self.is_closing():
            self._close()

    def close_now(self) -> None:
        """Send a head that is kept, and close."""
        self._flush()
        self._transport.close()

    def end(self) -> None:
        """Send a head that is kept, and tell the caller that nothing follows."""
        self._flush()
        if not self.is_closing():
            self._ended = True
            self._transport.write_eof()

    def is_closing(self) -> bool:
        """Say whether nothing more can be sent."""
        return self._ended or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Read nothing more, if the connection is still there."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, if the connection is still there."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self._transport.is_closing():
                self._transport.write(head)
