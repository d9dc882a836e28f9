"""Protocol: HTTP/1.1 as uvicorn speaks it, but with the head and the body of an answer in one write.

uvicorn writes each as it gets it, and uvloop hands on at once what is written: two packets, for which the
system does its work twice, and wakes the caller twice.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD = b"HTTP/1."


class Protocol(HttpToolsProtocol):
    """uvicorn's, with a transport that waits for what follows a head."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Joining(transport, self.loop)))


class _Joining:
    """A transport that sends an answer's head with what is written next, or by itself if the loop has its
    turn before that. All else is the transport's own."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, or keep it for a moment if an answer begins with it."""
        if self._head and data:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Send what is kept, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)
