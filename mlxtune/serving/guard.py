"""Who may talk to the server: nobody from elsewhere, and no web page on this machine's behalf.

A page in the user's browser can send requests to a server on loopback, and with DNS rebinding even read the replies: its own name
then points to 127.0.0.1. Such a request still carries that name as its Host, and the page as its Origin.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from mlxtune.serving.completions import Refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Passes requests on to ``app`` whose Host and Origin are this machine, and that have the ``token`` if there is one.

    ``host`` is the name that the server was told to listen on.
    """

    def __init__(self, app: App, host: str, token: str = "") -> None:
        self.app, self.token = app, token
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
            except Refused as no:
                await JSONResponse(no.body, no.status, no.headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, headers: dict[str, str]) -> None:
        """Raises ``Refused``."""
        if not self._own(f"//{headers.get('host', '')}", anywhere=True):
            raise Refused(403, "This server answers to its own address only.", code="host_not_allowed")
        if "origin" in headers and not self._own(headers["origin"], anywhere=False):
            raise Refused(403, "Web pages of other sites may not use this server.", code="origin_not_allowed")
        if self.token and not hmac.compare_digest(headers.get("authorization", "").encode(), f"Bearer {self.token}".encode()):
            raise Refused(401, "The token is missing or wrong.", code="invalid_api_key", **{"WWW-Authenticate": "Bearer"})

    def _own(self, address: str, *, anywhere: bool) -> bool:
        """Whether a URL's host is a name of this machine or an IP address, which cannot be rebound: of loopback, or ``anywhere``."""
        try:
            name = (urlsplit(address).hostname or "").lower()
            return name in self.names or name.removesuffix(".local") in self.names or _is_address(name, anywhere)
        except ValueError:
            return False


def _is_address(name: str, anywhere: bool) -> bool:
    """Raises ``ValueError`` where it is none."""
    found = ipaddress.ip_address(name)
    return anywhere or found.is_loopback
