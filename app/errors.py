"""Everything that can go wrong, as a tree.

* NerveError
  * RequestError (bad_request): the caller can mend it
    * BadRequest (bad_request): the body is not what its content type says
    * NotFound (not_found): unknown model, version or route
    * TooLarge (too_large): body, text, or number of texts
    * UnsupportedMediaType (unsupported_media_type)
    * Unprocessable (unprocessable): a field is missing, unknown or of the wrong kind
    * ClientLeft (client_left): the caller hung up
  * VersionRefused (refused): a model version failed its checks, and why
  * Busy (busy): the queue is full; `retry_after` says when to come again
  * NotReady (not_ready): nothing to serve yet, or shutting down
  * DeadlineExceeded (deadline): the answer was not there in time
  * InferenceFailed (failed): the session failed on this batch
  * SettingsError (settings): the server cannot start like this

An error has a `kind`, which says what a protocol makes of it (`app.api.statuses` has the HTTP status of
each), a `code`, stable snake_case for programs, and a message for people that names the thing, the value
and the remedy.
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
"""The kinds that are the server's fault: a canary is judged by them."""


class NerveError(Exception):
    """Root of the tree; by itself, a bug of the server."""

    kind: Kind = "failed"
    code = "internal_error"

    def __init__(self, message: str, code: str | None = None):
        super().__init__(message)
        self.message = message
        self.code = code or self.code


class RequestError(NerveError):
    """The caller can mend it."""

    kind: Kind = "bad_request"
    code = "bad_request"


class BadRequest(RequestError):
    """The body is not what its content type says."""


class NotFound(RequestError):
    """There is no such thing."""

    kind = "not_found"
    code = "not_found"


class TooLarge(RequestError):
    """More than a limit allows; limits are settings."""

    kind = "too_large"
    code = "body_too_large"


class UnsupportedMediaType(RequestError):
    """A content type, charset or content encoding that is not understood."""

    kind = "unsupported_media_type"
    code = "unsupported_media_type"


class Unprocessable(RequestError):
    """Well-formed, but a field is missing, unknown or of the wrong kind."""

    kind = "unprocessable"
    code = "invalid_request"


class ClientLeft(RequestError):
    """The caller hung up before there was an answer, so nobody reads this one."""

    kind = "client_left"
    code = "client_left"


class VersionRefused(NerveError):
    """A model version failed its checks; the message says which and what to do."""

    kind = "refused"
    code = "version_refused"


class Busy(NerveError):
    """The queue is full, or what waits in it would outlast the caller's deadline.

    Attributes:
        retry_after: seconds until it will have room again, measured from its rate.
        late: whether it is the deadline that leaves no room, so that allowing more time helps.
    """

    kind = "busy"
    code = "overloaded"

    def __init__(self, message: str, retry_after: float, late: bool = False):
        super().__init__(message)
        self.retry_after = retry_after
        self.late = late


class NotReady(NerveError):
    """There is nothing to serve with, yet or any more."""

    kind = "not_ready"
    code = "not_ready"


class DeadlineExceeded(NerveError):
    """The answer was not there by the time that the request allowed; what had not run was dropped."""

    kind = "deadline"
    code = "deadline_exceeded"


class InferenceFailed(NerveError):
    """The session failed on the batch a text was in."""

    code = "inference_failed"


class SettingsError(NerveError):
    """The server cannot start like this."""

    kind = "settings"
    code = "bad_settings"
