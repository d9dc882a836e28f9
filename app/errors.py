"""Errors: the tree of everything that can go wrong.

* NerveError
  * RequestError (bad_request): the caller can fix the request
    * BadRequest (bad_request): the body is not what its content type says
    * NotFound (not_found): unknown model, version or route
    * TooLarge (too_large): body, text, or number of texts
    * UnsupportedMediaType (unsupported_media_type)
    * Unprocessable (unprocessable): a field is missing, unknown or of the wrong kind
    * ClientLeft (client_left): the caller closed the connection
  * VersionRefused (refused): a model version failed its checks
  * Busy (busy): the queue is full; `retry_after` says in how many seconds to retry
  * NotReady (not_ready): no version serves yet, or the server is shutting down
    * NotChecked (not_ready): a check came to no outcome, for a reason that is not the version's own
  * DeadlineExceeded (deadline): the answer was not ready in time
  * InferenceFailed (failed): the session failed on this batch
  * SettingsError (settings): the server cannot start with these settings

An error has a `kind`, which each protocol maps to a status (for HTTP see `app.api.statuses`), a stable
snake_case `code` for programs, and a message for people that names the thing, the value and the remedy.
"""

from typing import Literal

Kind = Literal[
    "bad_request",
    "not_found",
    "too_large",
    "unsupported_media_type",
    "unprocessable",
    "client_left",
    "refused",
    "precondition",
    "busy",
    "not_ready",
    "deadline",
    "failed",
    "settings",
]

FAULTS: frozenset[Kind] = frozenset({"failed", "deadline"})
"""The kinds that are the server's fault; a canary is judged by them."""


class NerveError(Exception):
    """Root of the tree; an instance of this class itself reports a bug of the server."""

    kind: Kind = "failed"
    code = "internal_error"

    def __init__(self, message: str, code: str | None = None):
        super().__init__(message)
        self.message = message
        self.code = code or self.code


class RequestError(NerveError):
    """The caller can fix the request."""

    kind: Kind = "bad_request"
    code = "bad_request"


class BadRequest(RequestError):
    """The body is not what its content type says."""


class NotFound(RequestError):
    """The model, version or route does not exist."""

    kind = "not_found"
    code = "not_found"


class TooLarge(RequestError):
    """A size is over a limit of the settings."""

    kind = "too_large"
    code = "body_too_large"


class UnsupportedMediaType(RequestError):
    """The content type, charset or content encoding is not supported."""

    kind = "unsupported_media_type"
    code = "unsupported_media_type"


class Unprocessable(RequestError):
    """The body is well-formed, but a field is missing, unknown or of the wrong kind."""

    kind = "unprocessable"
    code = "invalid_request"


class ClientLeft(RequestError):
    """The caller closed the connection before the answer was ready."""

    kind = "client_left"
    code = "client_left"


class VersionRefused(NerveError):
    """A model version failed its checks; the message says which ones and what to do."""

    kind = "refused"
    code = "version_refused"


class Busy(NerveError):
    """The queue is full, or its waiting rows would take longer than the caller's deadline allows.

    Attributes:
        retry_after: seconds until the queue will have room, estimated from its measured rate.
        late: whether the deadline is the reason, so that allowing more time helps.
    """

    kind = "busy"
    code = "overloaded"

    def __init__(self, message: str, retry_after: float, late: bool = False):
        super().__init__(message)
        self.retry_after = retry_after
        self.late = late


class NotReady(NerveError):
    """No version can answer: none is loaded yet, or the server is shutting down."""

    kind = "not_ready"
    code = "not_ready"


class NotChecked(NotReady):
    """A check of a version came to no outcome, for a reason that is not the version's own."""

    code = "not_checked"


class DeadlineExceeded(NerveError):
    """The answer was not ready by the request's deadline; rows that had not run were dropped."""

    kind = "deadline"
    code = "deadline_exceeded"


class InferenceFailed(NerveError):
    """The session failed on the batch that held a text."""

    code = "inference_failed"


class SettingsError(NerveError):
    """The server cannot start with these settings."""

    kind = "settings"
    code = "bad_settings"
