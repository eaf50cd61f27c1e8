"""Listen on an address and serve an ASGI application until a signal arrives."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from mlxtune.core.errors import InputError
from mlxtune.serving.access_guard import App
from mlxtune.serving.header_timeout import HeaderTimeoutProtocol

DRAIN_TIMEOUT = 60  # seconds that answers in progress may take after SIGTERM
INTERRUPT_TIMEOUT = 2  # seconds that they may take after SIGINT
IDLE_TIMEOUT = 75  # seconds that a connection stays open between requests; clients give up theirs earlier, OpenAI's after 5 seconds


def listen(host: str, port: int) -> socket.socket:
    """Open a socket to serve on. Raises ``InputError`` when the address cannot be used."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "invalid port"
        raise InputError(
            f"Cannot listen on {host}:{port}: {reason}.", hint="Use another port; --port 0 finds a free one."
        ) from error


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


def run(app: App, listener: socket.socket, on_start: Callable[[uvicorn.Server], None]) -> None:
    """Serve ``app`` until SIGINT or SIGTERM, or until ``should_exit`` is set on the server passed to ``on_start``.

    New connections are refused from then on.
    """
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=INTERRUPT_TIMEOUT,
        timeout_keep_alive=IDLE_TIMEOUT, http=HeaderTimeoutProtocol, ws="none",
    )  # fmt: skip
    server = DrainingServer(config)
    on_start(server)
    server.run(sockets=[listener])
