"""Origins: keeps pages of other sites from using the browser of somebody who can reach this server.

A page may send requests to every address that its reader's browser reaches, also to one on the loopback.
Two headers that no page can forge give it away. `Origin` names the site that it is of. `Host` names the
server as the page knows it: a page whose own domain resolves to this server's address (DNS rebinding) is of
the same origin, but asks under its domain's name. Callers that are no browsers send what they like; this
does not keep them away.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence

from starlette.types import Scope

from app.errors import BadRequest, Forbidden, shown

_HOST = re.compile(r"(?:([a-z0-9._-]{1,253})|\[([0-9a-f:.]{2,45})\])(?::[0-9]{0,5})?")
"""A host and its port, in lower case: a name or IPv4 address, or an IPv6 address in brackets."""

_PROBES = ("/healthz", "/readyz")
"""Paths that orchestrators ask for, under whatever name they know the server by."""


class Origins:
    """Says which requests may have come from a page of another site.

    Args:
        allowed: names that the server is reached under (`Settings.allowed_hosts`). Without any, only the
            routes below `/models` are kept to names that are certainly the server's own.
    """

    def __init__(self, allowed: Iterable[str] = ()):
        self._names = frozenset(allowed)
        self._suffixes = tuple(name[1:] for name in self._names if name.startswith("*."))

    def check(self, scope: Scope) -> None:
        """Check where a request comes from.

        Raises:
            BadRequest: there is not exactly one well-formed `Host`.
            Forbidden: `Host` is not a name of this server, or a page of another site asks for `/models`.
        """
        path, root = scope["path"], scope.get("root_path", "")
        administers = path.startswith("/models") or (root and path.startswith(f"{root}/models"))
        if not administers and (not self._names or path.removeprefix(root) in _PROBES):
            return
        host = _only(scope["headers"], b"host")
        self._check_host(host)
        if administers:
            _check_origin(scope["headers"], host)

    def _check_host(self, host: str) -> None:
        found = _HOST.fullmatch(host)
        if not found:
            raise BadRequest(f"Host {shown(host)}: send one host, with or without a port", "invalid_host")
        name, address = found.groups()
        if not (self._knows(name.removesuffix(".")) if name else _is_address(address)):
            raise Forbidden(
                f"Host {shown(host)} is not known to be a name of this server; use its IP address or "
                "localhost, or have its operator add the name to NERVE_ALLOWED_HOSTS",
                "host_not_allowed",
            )

    def _knows(self, name: str) -> bool:
        """Say whether a name is this server's. Names without a dot are given by the local network only."""
        return (
            "." not in name
            or name.endswith((".localhost", *self._suffixes))
            or name in self._names
            or "*" in self._names
            or _is_address(name)
        )


def _check_origin(headers: Sequence[tuple[bytes, bytes]], host: str) -> None:
    """Raise Forbidden for a request that a browser sends for a page of another site."""
    for name, value in headers:
        if name == b"origin":
            same = value.decode("latin-1").lower().partition("://")[2] == host
        elif name == b"sec-fetch-site":
            same = value in (b"same-origin", b"none")
        else:
            continue
        if not same:
            given = f"{name.decode().title()} {shown(value.decode('latin-1'))}"
            raise Forbidden(
                f"{given}: /models is not for pages of other sites than {shown(host)}; ask without a "
                "browser, and have a proxy pass the browser's Host on",
                "origin_not_allowed",
            )


def _only(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> str:
    """Return the value of a header that must be there once, in lower case."""
    values = [value for name, value in headers if name == wanted]
    if len(values) != 1:
        raise BadRequest(f"the request has {len(values) or 'no'} Host headers; send one", "invalid_host")
    return values[0].decode("latin-1").lower()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
