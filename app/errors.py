"""Everything that can go wrong, as a tree; one table turns a kind of error into an HTTP status.

* NerveError
  * RequestError: the caller can mend it
    * BadRequest (400)
    * NotFound (404): unknown model, version or route
    * TooLarge (413): body, text, or number of texts
    * UnsupportedMediaType (415)
    * Unprocessable (422): a field is missing, unknown or of the wrong kind
    * ClientLeft (499): the caller hung up
  * VersionRefused (409): a model version failed its checks, and why
  * Busy (429): the queue is full; `retry_after` says when to come again
  * NotReady (503): nothing to serve yet, or shutting down
  * DeadlineExceeded (504): the answer was not there in time
  * InferenceFailed (500): the session failed on this batch
  * SettingsError: the server cannot start like this

Each error carries a `code`, stable snake_case for programs, and a message for people that names
the thing, the value and the remedy.
"""


class NerveError(Exception):
    """Root of the tree."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, code: str | None = None):
        super().__init__(message)
        self.message = message
        self.code = code or self.code


class RequestError(NerveError):
    """The caller can mend it."""

    status = 400
    code = "bad_request"


class BadRequest(RequestError):
    """The body is not what its content type says."""


class NotFound(RequestError):
    """There is no such thing."""

    status = 404
    code = "not_found"


class TooLarge(RequestError):
    """More than a limit allows; limits are settings."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(RequestError):
    """A content type, charset or content encoding that is not understood."""

    status = 415
    code = "unsupported_media_type"


class Unprocessable(RequestError):
    """Well-formed, but a field is missing, unknown or of the wrong kind."""

    status = 422
    code = "invalid_request"


class ClientLeft(RequestError):
    """The caller hung up before there was an answer, so nobody reads this one; nginx has the number."""

    status = 499
    code = "client_left"


class VersionRefused(NerveError):
    """A model version failed its checks; the message says which and what to do."""

    status = 409
    code = "version_refused"


class Busy(NerveError):
    """The queue is full.

    Attributes:
        retry_after: seconds until it will have room again, measured from its rate.
    """

    status = 429
    code = "overloaded"

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(NerveError):
    """There is nothing to serve with, yet or any more."""

    status = 503
    code = "not_ready"


class DeadlineExceeded(NerveError):
    """The answer was not there by the time that the request allowed; what had not run was dropped."""

    status = 504
    code = "deadline_exceeded"


class InferenceFailed(NerveError):
    """The session failed on the batch a text was in."""

    code = "inference_failed"


class SettingsError(NerveError):
    """The server cannot start like this."""

    code = "bad_settings"
