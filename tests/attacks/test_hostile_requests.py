"""Requests that are made to hold or confuse the server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai._constants import DEFAULT_CONNECTION_LIMITS

from mlxtune.serving import http_server
from mlxtune.serving.access_guard import AccessGuard
from mlxtune.serving.api import ApiError
from mlxtune.serving.completions import _tool_calls
from mlxtune.serving.http_server import listen, run


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def serving() -> Iterator[int]:
    with listen("127.0.0.1", 0) as listener:
        servers: list[Any] = []
        thread = threading.Thread(target=run, args=(app, listener, servers.append))
        thread.start()
        yield listener.getsockname()[1]
        servers[0].should_exit = True
        thread.join(20)


REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def test_headers_that_never_arrive_do_not_hold_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEADER_TIMEOUT", 0.2)
    with serving() as port:
        for complete in (0, 1):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
                for _ in range(complete):
                    line.sendall(REQUEST)
                    assert line.recv(1000).startswith(b"HTTP/1.1 204")
                line.sendall(REQUEST[:20])
                assert line.recv(1000) == b""


def test_complete_requests_are_answered() -> None:
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        for _ in range(3):
            line.sendall(REQUEST)
            assert line.recv(1000).startswith(b"HTTP/1.1 204")


@pytest.mark.exhaustive
def test_the_server_keeps_a_connection_longer_than_clients_do() -> None:
    """Otherwise, it might close one just as the client sends the next request on it, which fails."""
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        for pause in (0, DEFAULT_CONNECTION_LIMITS.keepalive_expiry + 1):
            time.sleep(pause)
            line.sendall(REQUEST)
            assert line.recv(1000).startswith(b"HTTP/1.1 204")


def test_deeply_nested_tool_arguments_are_a_client_error() -> None:
    with pytest.raises(ApiError) as error:
        _tool_calls([{"function": {"name": "f", "arguments": "[" * 100_000}}], "messages[0]")
    assert error.value.status == 400


def test_a_token_may_have_any_character() -> None:
    guard = AccessGuard(app, "127.0.0.1", "sécret ✓")
    headers = {"host": "127.0.0.1", "authorization": "Bearer sécret ✓".encode().decode("latin-1")}  # as it arrives
    guard._check(headers)
    with pytest.raises(ApiError):
        guard._check(headers | {"authorization": "Bearer secret"})
