"""Requests that are made to hold or confuse the server."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from openai._constants import DEFAULT_CONNECTION_LIMITS
from waiting import PATIENCE

from mlxtune.core.errors import InputError
from mlxtune.core.json_fields import to_json
from mlxtune.data.rows import Message
from mlxtune.serving import http_server, server
from mlxtune.serving.access_guard import AccessGuard
from mlxtune.serving.api import ApiError
from mlxtune.serving.completions import _tool_calls, parse_chat_request
from mlxtune.serving.engine import Engine
from mlxtune.serving.http_server import listen, run
from mlxtune.serving.protocol import GenerateRequest
from mlxtune.serving.worker import LONG, ModelProcess


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


def test_headers_that_never_arrive_do_not_hold_a_connection(monkeypatch):
    monkeypatch.setattr(http_server, "HEADER_TIMEOUT", 0.2)
    with serving() as port:
        for complete in (0, 1):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
                for _ in range(complete):
                    line.sendall(REQUEST)
                    assert line.recv(1000).startswith(b"HTTP/1.1 204")
                line.sendall(REQUEST[:20])
                assert line.recv(1000) == b""


def test_complete_requests_are_answered():
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        for _ in range(3):
            line.sendall(REQUEST)
            assert line.recv(1000).startswith(b"HTTP/1.1 204")


@pytest.mark.exhaustive
def test_the_server_keeps_a_connection_longer_than_clients_do():
    """Otherwise, it might close one just as the client sends the next request on it, which fails."""
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        for pause in (0, DEFAULT_CONNECTION_LIMITS.keepalive_expiry + 1):
            time.sleep(pause)
            line.sendall(REQUEST)
            assert line.recv(1000).startswith(b"HTTP/1.1 204")


@pytest.mark.parametrize("arguments", ["[" * 100_000, "[" * 900 + "]" * 900], ids=["unclosed", "valid"])
def test_deeply_nested_tool_arguments_are_a_client_error(arguments):
    with pytest.raises(ApiError) as error:
        _tool_calls([{"function": {"name": "f", "arguments": arguments}}], "messages[0]")
    assert error.value.status == 400


def test_a_token_may_have_any_character():
    guard = AccessGuard(app, "127.0.0.1", "sécret ✓")
    headers = {"host": "127.0.0.1", "authorization": "Bearer sécret ✓".encode().decode("latin-1")}  # as it arrives
    guard._check(headers)
    with pytest.raises(ApiError):
        guard._check(headers | {"authorization": "Bearer secret"})


@pytest.mark.parametrize("name", ["model", "parameter"])
def test_a_long_name_is_not_compared_with_others(monkeypatch, name):
    monkeypatch.setattr("difflib.get_close_matches", lambda *_, **__: pytest.fail("compared"))
    long = "x" * 4_000_000
    body = {"model": long, "messages": []} if name == "model" else {"model": "m", long: 1}
    with pytest.raises(ApiError) as error:
        parse_chat_request(body, ["m"])
    assert len(error.value.message) < 300


DEEP = {
    "body": "[" * 5000 + "]" * 5000,
    "schema": '{"response_format": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}",
    "unclosed": "[" * 3_000_000,
}


@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
def test_deep_nesting_is_a_client_error(body):
    with pytest.raises(ApiError) as error:
        server._parse_json(body.encode())
    assert error.value.status == 400


def test_other_threads_run_while_a_long_body_is_parsed():
    """A thread is interrupted only between two steps in Python, of which there is one for each value at least."""
    steps: list[str] = []
    sys.setprofile(lambda frame, event, _: steps.append(event) if event == "call" else None)
    try:
        server._parse_json(b"[%s0]" % (b"[]," * LONG))
    finally:
        sys.setprofile(None)
    assert len(steps) > LONG


def engine(context: int, encoded: list[str]) -> Any:
    """An engine whose tokenizer records the texts that it encodes, with one token for four characters."""

    def encode(text: str, **_: Any) -> list[int]:
        encoded.append(text)
        return [0] * (len(text) // 4)

    one = object.__new__(Engine)
    one.context = context
    one.loaded = SimpleNamespace(tokenizer=SimpleNamespace(encode=encode, bos_token_id=1))  # type: ignore[assignment]
    return one


@pytest.mark.parametrize("raw", [True, False])
def test_a_message_beyond_the_context_is_refused_before_it_is_tokenized(raw):
    encoded: list[str] = []
    text = "word " * 800_000
    request = GenerateRequest(prompt=text) if raw else GenerateRequest(messages=(Message("user", text),))
    with pytest.raises(InputError, match="more than"):
        engine(8192, encoded)._encode(request, None)
    assert sum(map(len, encoded)) < 100_000


@pytest.mark.parametrize("raw", [True, False])
def test_half_a_character_is_bad_input(raw):
    request = GenerateRequest(prompt="a\ud800") if raw else GenerateRequest(messages=(Message("user", "a\ud800"),))
    with pytest.raises(InputError, match="incomplete character"):
        engine(8192, [])._encode(request, None)


class SlowEngine:
    """Its long requests are not submitted until a short one was."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.short = threading.Event()

    def submit(self, request: GenerateRequest) -> None:
        if len(request.messages[0].content) > LONG:
            assert self.short.wait(PATIENCE)
        self.events.append(request.id)
        if request.id == "2":
            self.short.set()

    def cancel(self, id: str) -> None:
        self.events.append(f"cancel {id}")


def test_a_long_request_does_not_hold_the_short_ones():
    slow, waiting = (
        SlowEngine(),
        [call("1", "x" * 2 * LONG), call("2", "x"), SimpleNamespace(method="cancel", params={"id": "1"}), None],
    )
    ModelProcess()._read(SimpleNamespace(receive=lambda: waiting.pop(0)), slow)  # type: ignore[arg-type]
    assert slow.events.index("2") < slow.events.index("1")
    assert slow.events[-1] == "cancel 1"  # canceled before it was submitted, and again afterward


def call(id: str, text: str) -> Any:
    params = to_json(GenerateRequest(id, (Message("user", text),)))
    return SimpleNamespace(method="generate", params=params, size=len(text), error=lambda error: pytest.fail(str(error)))
