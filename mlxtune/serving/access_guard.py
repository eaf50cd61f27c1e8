"""Access control for the server: requests must use a name of this machine, come from an allowed origin, and have the token."""

import hmac
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mlxtune.serving.api import ApiError


def guarded(app: ASGIApp, host: str, token: str = "", origins: Collection[str] = ()) -> ASGIApp:
    """Return ``app`` behind an :class:`AccessGuard`. Browsers let pages from ``origins`` read its responses (CORS)."""
    origins = [_serialized(origin) for origin in origins]
    guard = AccessGuard(app, host, token, origins)
    if not origins:
        return guard
    return CORSMiddleware(guard, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])


class AccessGuard:
    """ASGI middleware that accepts only requests to this machine's own names, from its own pages, with the ``token`` if set.

    A web page in the user's browser can send requests to a server on loopback, and with DNS rebinding even read the responses: the
    page's own name then resolves to 127.0.0.1. Such a request still has that name as its Host, and the page as its Origin.
    Starlette's TrustedHostMiddleware checks neither IP addresses nor the Origin.
    """

    def __init__(self, app: ASGIApp, host: str, token: str = "", origins: Collection[str] = ()) -> None:
        """``host`` is the address that the server listens on. Pages from ``origins`` are accepted as well; ``*`` accepts any."""
        self.app, self.token, self.origins = app, token, origins
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
            except ApiError as error:
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, headers: dict[str, str]) -> None:
        if not self._is_own(f"//{headers.get('host', '')}", any_address=True):
            raise ApiError(403, "This server accepts requests only to its own address.", code="host_not_allowed")
        origin = headers.get("origin")
        foreign = origin is not None and not self._is_own(origin, any_address=False)
        if foreign and origin not in self.origins and "*" not in self.origins:
            raise ApiError(403, "Web pages from other sites need --allow-origin.", code="origin_not_allowed")
        expected = f"Bearer {self.token}".encode()
        if self.token and not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), expected):
            raise ApiError(401, "The API token is missing or invalid.", code="invalid_api_key", **{"WWW-Authenticate": "Bearer"})

    def _is_own(self, url: str, *, any_address: bool) -> bool:
        """Return whether a URL's host is a name of this machine or an IP address (``any_address``, or else a loopback one)."""
        try:
            name = (urlsplit(url).hostname or "").lower()
            if name in self.names or name.removesuffix(".local") in self.names:
                return True
            address = ipaddress.ip_address(name)
            return any_address or address.is_loopback
        except ValueError:
            return False


def _serialized(origin: str) -> str:
    """Return an origin as browsers send it: in lower case, without the scheme's default port (RFC 6454, section 6.2)."""
    scheme, separator, rest = origin.lower().partition("://")
    return f"{scheme}{separator}{rest.removesuffix({'http': ':80', 'https': ':443'}.get(scheme, ''))}"
