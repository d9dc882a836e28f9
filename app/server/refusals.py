"""Refusals are answers to what never becomes a request: no HTTP, too much of it, or too slow."""

import http
import logging
import random
from collections.abc import Iterable

from app.api.failures import Failure, error_response
from app.metrics import Metrics

log = logging.getLogger("nerve.request")


class Refused(Exception):
    """The connection is answered with this and closed."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def answer(self, request_id: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the whole answer as it goes over the wire.

        Args:
            headers: those of every answer of this server.
        """
        failure = Failure(self.status, self.code, self.message, request_id, self.retry_after)
        response = error_response(failure)
        lines = [
            f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}".encode(),
            *(b"%s: %s" % header for header in (*headers, *response.raw_headers)),
            b"x-request-id: " + request_id.encode(),
            b"connection: close",
        ]
        return b"\r\n".join([*lines, b"", bytes(response.body)])


def new_id() -> str:
    """Return an id for an answer that belongs to no request."""
    return f"{random.getrandbits(128):032x}"


def record_refusal(refused: Refused, request_id: str, metrics: Metrics | None) -> None:
    """Log and count a refusal as the answer to a request."""
    if metrics:
        metrics.requests.labels("other", "", "", str(refused.status)).inc()
    log.info(
        "refused %d %s %s",
        refused.status,
        refused.code,
        request_id,
        extra={"status": refused.status, "code": refused.code, "request_id": request_id},
    )
