"""Dialect: what one way to ask and to answer over HTTP consists of."""

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
    """One path of a dialect.

    Attributes:
        path: as FastAPI has it; `{model}` in it is one of the request's `path_params`.
        name: tells the routes of a dialect apart in the documentation.
        documentation: further keyword arguments of `APIRouter.add_api_route`.
        show: answers a path that annotates nothing, such as one that says what is served; None for the
            others, whose requests are decoded, annotated and encoded.
    """

    path: str
    name: str
    method: str = "POST"
    documentation: Mapping[str, Any] = field(default_factory=dict)
    show: Callable[[Request], Awaitable[Response]] | None = None


class Dialect(Protocol[A]):
    """One way to ask and to answer. It knows the wire and nothing behind it: reading a body within its
    limit, deadlines, callers who hang up, versions, metrics and the log are the same for all dialects.

    `A` is its request: an `Ask` with whatever else it must remember until it answers.
    """

    @property
    def tag(self) -> str:
        """The heading of its routes in the documentation."""
        ...

    @property
    def accepts(self) -> Sequence[str]:
        """The media types of its requests; an empty one stands for a missing Content-Type."""
        ...

    @property
    def routes(self) -> Sequence[Route]:
        """Its paths."""
        ...

    def decode(self, request: Request, media: str, body: bytes) -> A:
        """What a request asks.

        Args:
            request: for its path, query and headers; its body has been read.
            media: the body's media type, one of `accepts`.

        Raises:
            RequestError: it is no request of this dialect; the message names what is wrong with it.
        """
        ...

    def encode(self, ask: A, annotation: Annotation) -> Response | Pieces:
        """The answer, of many texts in pieces."""
        ...

    def encode_error(self, ask: A | None, failure: Failure) -> Response:
        """The answer to a request that failed, in this dialect's shape.

        Args:
            ask: None where the request could not be decoded.
        """
        ...
