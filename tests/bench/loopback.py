"""The client side of a benchmark: HTTP/1.1 over one kept-alive socket, and little else to be measured."""

import re
import socket
import subprocess
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def encode(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    """A request, made before it is timed; each of the headers ends with CR LF."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection:
    """One connection to a port of the loopback; close it.

    Args:
        timeout: seconds without a byte after which `exchange` fails; to watch it costs a microsecond.
    """

    def __init__(self, port: int, timeout: float | None = None):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send an encoded request; the status and body of its answer, which must state its length."""
        self._socket.sendall(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._receive()
        found = _LENGTH.search(data, 0, end + 2)
        length = int(found[1]) if found else 0
        while len(data) < end + 4 + length:
            data += self._receive()
        return int(data[9:12]), data[end + 4 :]

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


def wait_ready(process: subprocess.Popen[bytes], port: int, path: str = "/readyz") -> Connection:
    """A connection to a server that has just answered 200.

    Raises:
        RuntimeError: it ended, or took a minute.
    """
    request = encode("GET", path)
    end = time.perf_counter() + 60
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            connection = Connection(port)
            if connection.exchange(request)[0] == 200:
                return connection
            connection.close()
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} was not ready within a minute")
