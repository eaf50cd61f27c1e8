"""Listen on an address and serve an ASGI application until a signal arrives."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlxtune.core.errors import InputError
from mlxtune.serving.protocol import SWITCH_INTERVAL

DRAIN_TIMEOUT = 60  # seconds that answers in progress may take after SIGTERM
INTERRUPT_TIMEOUT = 2  # seconds that they may take after SIGINT
HEADER_TIMEOUT = 20.0  # seconds from the connection, or from a request's first byte, until all of its headers have arrived
IDLE_TIMEOUT = 75  # seconds that a connection stays open between requests; clients give up theirs earlier, OpenAI's after 5 seconds


def listen(host: str, port: int) -> socket.socket:
    """Open a socket to serve on. Raises ``InputError`` when the address cannot be used."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "invalid port"
        raise InputError(f"Cannot listen on {host}:{port}: {reason}.", hint="Use another port; 0 finds a free one.") from error


class HeaderTimeoutProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which also closes connections whose request headers never arrive.

    uvicorn limits only the time between two requests, so that a client that sends one byte a minute could hold a connection
    indefinitely (Slowloris).
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:  # the headers are complete
            self._cancel()
        elif self._timer is None:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _start(self) -> None:
        self._timer = self.loop.call_later(HEADER_TIMEOUT, self.transport.close)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class DrainingServer(uvicorn.Server):
    """A server that finishes the answers in progress on SIGTERM, and then returns. A second signal ends it immediately."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self.should_exit:
            self.force_exit = True
        else:
            self.config.timeout_graceful_shutdown = DRAIN_TIMEOUT
            self.should_exit = True


def run(app: ASGIApp, listener: socket.socket, on_start: Callable[[uvicorn.Server], None]) -> None:
    """Serve ``app`` until a signal or ``should_exit`` on the server passed to ``on_start``; then refuse new connections."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=INTERRUPT_TIMEOUT,
        timeout_keep_alive=IDLE_TIMEOUT, http=HeaderTimeoutProtocol, ws="none",
    )  # fmt: skip
    server = DrainingServer(config)
    sys.setswitchinterval(SWITCH_INTERVAL)
    on_start(server)
    server.run(sockets=[listener])
