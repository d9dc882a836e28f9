"""Errors: the tree of everything that can go wrong.

* NerveError
  * RequestError (bad_request): the caller can fix the request
    * BadRequest (bad_request): the body is not what its content type says, or a header is malformed
    * Forbidden (forbidden): the request comes from a page of another site, or under another's name
    * NotFound (not_found): unknown model, version or route
    * TooLarge (too_large): body, text, number of texts or characters
    * TooMuch (too_large): so many sub-tokens cannot be run in the time that a request has
    * UnsupportedMediaType (unsupported_media_type)
    * Unprocessable (unprocessable): a field is missing, unknown or of the wrong kind
    * ClientLeft (client_left): the caller closed the connection
  * VersionRefused (refused): a model version failed its checks
  * Busy (busy): the queue is full; `retry_after` says in how many seconds to retry
    * NoRoom (busy): too many large bodies are being received
  * NotReady (not_ready): no version serves yet, or the server is shutting down
    * NotChecked (not_ready): a check came to no outcome, for a reason that is not the version's own
  * DeadlineExceeded (deadline): the answer was not ready in time
  * InferenceFailed (failed): the session failed on this batch
  * DiskFailed (failed): what has to wait on disk cannot be written or read
  * SettingsError (settings): the server cannot start with these settings

An error has a `kind`, which each protocol maps to a status (for HTTP see `app.api.statuses`), a stable
snake_case `code` for programs, and a message for people that names the thing, the value and the remedy.
"""

from typing import Literal

Kind = Literal[
    "bad_request",
    "forbidden",
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


def shown(value: str, most: int = 80) -> str:
    """Return what a caller sent as a message may hold it: quoted, in printable characters, and short."""
    return repr(value) if len(value) <= most else f"{value[:most]!r}… ({len(value)} characters)"


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
    """The body is not what its content type says, or a header is malformed."""


class Forbidden(RequestError):
    """The request may come from a page of another site, which must not use its reader's browser."""

    kind = "forbidden"
    code = "forbidden"


class NotFound(RequestError):
    """The model, version or route does not exist."""

    kind = "not_found"
    code = "not_found"


class TooLarge(RequestError):
    """A size is over a limit of the settings."""

    kind = "too_large"
    code = "body_too_large"


class TooMuch(TooLarge):
    """The texts cannot be run in the time that the request has, even if nothing else runs."""

    code = "too_much_for_timeout"


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


class NoRoom(Busy):
    """The bodies that are being received take all the memory that the server has for them."""

    code = "bodies_full"


class NotReady(NerveError):
    """No version can answer: none is loaded yet, or the server is shutting down."""

    kind = "not_ready"
    code = "not_ready"


class NotChecked(NotReady):
    """A version could not be checked, for a reason that is not its own fault: a lack of memory, a signal.

    Attributes:
        memory: whether memory was lacking.
    """

    code = "not_checked"

    def __init__(self, message: str, memory: bool = False):
        super().__init__(message)
        self.memory = memory


class DeadlineExceeded(NerveError):
    """The answer was not ready by the request's deadline; rows that had not run were dropped."""

    kind = "deadline"
    code = "deadline_exceeded"


class InferenceFailed(NerveError):
    """The session failed on the batch that held a text."""

    code = "inference_failed"


class DiskFailed(NerveError):
    """What has to wait on the server's disk cannot be written or read."""

    code = "disk_failed"


class SettingsError(NerveError):
    """The server cannot start with these settings."""

    kind = "settings"
    code = "bad_settings"
