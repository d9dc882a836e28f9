"""Dialect: the interface of a wire format of requests and answers over HTTP."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from app.annotate import Annotation, Ask
from app.api.failures import Failure
from app.api.responses import Pieces

A = TypeVar("A", bound=Ask)


@dataclass(frozen=True)
class Route:
    """Describes one path of a dialect.

    Attributes:
        path: the path in FastAPI's form; `{model}` in it becomes one of the request's `path_params`.
        name: the name of the route in the documentation.
        documentation: further keyword arguments of `APIRouter.add_api_route`.
        show: answers a path that annotates nothing, such as a list of models; None for other paths, whose
            requests are decoded, annotated and encoded.
    """

    path: str
    name: str
    method: str = "POST"
    documentation: Mapping[str, Any] = field(default_factory=dict)
    show: Callable[[Request], Awaitable[Response]] | None = None


class Dialect(Protocol[A]):
    """Translates between a wire format and the values of `app.annotate`, and nothing else: body limits,
    deadlines, closed connections, versions, metrics and the log are the same for all dialects.

    `A` is the type of its requests: an `Ask` with the fields that `encode` needs.
    """

    @property
    def tag(self) -> str:
        """Return the heading of the routes in the documentation."""
        ...

    @property
    def accepts(self) -> Sequence[str]:
        """Return the media types of requests; an empty one stands for a missing Content-Type."""
        ...

    @property
    def routes(self) -> Sequence[Route]:
        """Return the routes of the dialect."""
        ...

    def decode(self, request: Request, media: str, body: bytes) -> A:
        """Return what a request asks.

        Args:
            request: gives the path, query and headers; the body has been read.
            media: the body's media type, one of `accepts`.

        Raises:
            RequestError: it is not a valid request of this dialect; the message says why.
        """
        ...

    def encode(self, ask: A, annotation: Annotation) -> Response | Pieces:
        """Return the answer; an answer to many texts comes as `Pieces`, made one at a time."""
        ...

    def encode_error(self, ask: A | None, failure: Failure) -> Response:
        """Return the answer to a failed request, in this dialect's form.

        Args:
            ask: None if the request could not be decoded.
        """
        ...
