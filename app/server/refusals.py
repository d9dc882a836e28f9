"""Refusals are answers to what never becomes a request: no HTTP, too much of it, or too slow."""

import http
import logging
from collections.abc import Iterable

from httptools import HttpParserCallbackError, HttpParserError

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


def head_too_large(most: int) -> Refused:
    """Return the answer to a head that is too large."""
    return Refused(
        431,
        "head_too_large",
        f"the request line and the headers, or the trailers, have more than {most} bytes; send what is "
        "long in the body",
    )


def not_http(error: HttpParserError) -> Refused:
    """Return the answer to what is no HTTP."""
    why = "its target is none" if isinstance(error, HttpParserCallbackError) else str(error)
    return Refused(
        400, "invalid_http", f"this is no HTTP/1.1 request ({why}); speak plain HTTP/1.1 to this port"
    )


def too_slow(what: str, seconds: float) -> Refused:
    """Return the answer to a caller that is too slow."""
    return Refused(
        408, "request_too_slow", f"{what} did not come within {seconds:.0f} seconds; send it without pauses"
    )


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
