"""OpenAI-compatible server for one base model and its adapters: ``/v1/models`` and ``/v1/chat/completions``. Does not import mlx.

It converts HTTP requests to requests to the model process (``client.py``) and its events to responses. The request's ``model``
selects the adapter. A request is canceled when its client disconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import math
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.serving import adapter_index
from mlxtune.serving.client import Client, PendingAnswer
from mlxtune.serving.completions import ApiError, CompletionRequest, CompletionResponse, parse_request
from mlxtune.serving.header_timeout import HeaderTimeoutProtocol
from mlxtune.serving.protocol import Accepted, Done, Event, Failed, Piece, ToolCall

MAX_BODY = 4 * 2**20  # bytes of a request
BODY_TIMEOUT = 60.0  # seconds
MAX_DRAIN = 64 * 2**20  # bytes of a longer body to read and discard, so that the client receives the error
_RETRY_AFTER = (1, 60)  # shortest and longest Retry-After in seconds, when the queue is full

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Chunks = AsyncGenerator[dict[str, Any], None]


class Server:
    """Serves ``client``, whose base model is loaded. ``slots`` and ``queue`` have the same values as in its engine.

    ``on_finish`` is called with the model's name when a request ends.
    """

    def __init__(
        self,
        client: Client,
        workspace: Path,
        *,
        slots: int,
        queue: int,
        on_finish: Callable[[str, Done | Failed], None] = lambda model, event: None,
    ) -> None:
        self.client, self.workspace, self.capacity = client, workspace, slots + queue
        self.ready = client.ready()
        self.on_finish = on_finish
        self._open = 0  # requests without a response
        self._last_seconds = 1.0  # duration of the last answer

    def app(self, host: str, token: str = "") -> App:
        """Return the ASGI application."""
        routes = [
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.get_model, methods=["GET"]),
            Route("/v1/chat/completions", self.create_completion, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
        ]
        handlers: dict[Any, Any] = {
            ApiError: _api_error, HTTPException: _http_error, ClientDisconnect: _disconnected, Exception: _internal_error,
        }  # fmt: skip
        return AccessGuard(Starlette(routes=routes, exception_handlers=handlers), host, token)

    async def health(self, _: Request) -> Response:
        """Report the server's load."""
        return JSONResponse({"status": "ok", "base": self.ready.base, "open": self._open, "places": self.capacity})

    async def list_models(self, _: Request) -> Response:
        """List the base model and its adapters."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in await self._model_names()]})

    async def get_model(self, request: Request) -> Response:
        """Return one model."""
        name = request.path_params["name"]
        if name not in await self._model_names():
            raise ApiError(404, f"There is no model named {one_line(name, 80)}.", code="model_not_found", param="model")
        return JSONResponse(self._model(name))

    async def create_completion(self, request: Request) -> Response:
        """Answer a chat, as one document or as a stream of server-sent events."""
        if self._open >= self.capacity:
            raise ApiError(
                429, "Too many requests are waiting.", code="rate_limit_exceeded", **{"Retry-After": str(self._retry_after)}
            )
        self._open += 1
        try:
            wanted = parse_request(_parse_json(await _read_body(request)), await self._model_names())
            events = _EventQueue(request)
            answer = self.client.ask(
                wanted.messages,
                adapter="" if wanted.model == self.ready.base else wanted.model,
                sampling=wanted.sampling,
                tools=wanted.tools,
                schema=wanted.schema,
                effort=wanted.effort,
                variables=wanted.variables,
                on_event=events.put,
            )
        except BaseException:
            self._open -= 1
            raise
        chunks = self._chunks(wanted, answer, events)
        try:
            first = await anext(chunks)
        except BaseException:
            await chunks.aclose()
            raise
        if wanted.stream:
            headers = {"Cache-Control": "no-store"}
            return StreamingResponse(_server_sent_events(first, chunks), media_type="text/event-stream", headers=headers)
        await chunks.aclose()
        return JSONResponse(first)

    async def _chunks(self, wanted: CompletionRequest, answer: PendingAnswer, events: _EventQueue) -> Chunks:
        """Yield the documents of a response: one, or many for a stream.

        Raises ``ApiError`` before the first document if there is no answer, and ``ClientDisconnect`` when the client disconnects.
        """
        response = CompletionResponse.to(wanted, self.ready.fingerprint)
        try:
            accepted = await events.next()
            event = await events.next() if isinstance(accepted, Accepted) else accepted
            if isinstance(event, Failed) or not isinstance(accepted, Accepted):
                raise self._failure(wanted, event)
            if wanted.stream:
                yield response.first_chunk()
            pieces: dict[bool, list[str]] = {True: [], False: []}
            calls: list[ToolCall] = []
            while isinstance(event, Piece | ToolCall):
                if wanted.stream:
                    yield response.piece_chunk(event) if isinstance(event, Piece) else response.call_chunk(event, len(calls))
                if isinstance(event, Piece):
                    pieces[event.reasoning].append(event.text)
                else:
                    calls.append(event)
                event = await events.next()
            if not isinstance(event, Done):
                failure = self._failure(wanted, event)
                if not wanted.stream:
                    raise failure
                yield failure.body
                return
            self._last_seconds = event.seconds
            self.on_finish(wanted.model, event)
            if not wanted.stream:
                yield response.document("".join(pieces[False]), "".join(pieces[True]).rstrip(), calls, accepted, event)
                return
            yield response.last_chunk(calls, accepted, event)
            if wanted.include_usage:
                yield response.usage_chunk(event)
        finally:
            self._open -= 1
            answer.cancel()
            events.close()

    def _failure(self, wanted: CompletionRequest, event: Event) -> ApiError:
        assert isinstance(event, Failed), event
        self.on_finish(wanted.model, event)
        return ApiError.from_event(event, self._retry_after)

    @property
    def _retry_after(self) -> int:
        shortest, longest = _RETRY_AFTER
        return min(max(shortest, math.ceil(self._last_seconds)), longest)

    async def _model_names(self) -> list[str]:
        adapters = await asyncio.to_thread(adapter_index.compatible_adapters, self.workspace, self.ready.fingerprint)
        return [self.ready.base, *(adapter.name for adapter in adapters)]

    def _model(self, name: str) -> dict[str, Any]:
        parent = None if name == self.ready.base else self.ready.base
        return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "mlxtune", "parent": parent}


class _EventQueue:
    """The events of one request. Waiting ends when the client disconnects."""

    def __init__(self, request: Request) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._disconnect = asyncio.ensure_future(_wait_for_disconnect(request))

    def put(self, event: Event) -> None:
        """Add an event. Called from the client's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def next(self) -> Event:
        """Return the next event. Raises ``ClientDisconnect``."""
        event = asyncio.ensure_future(self._queue.get())
        try:
            await asyncio.wait([event, self._disconnect], return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                return event.result()
            raise ClientDisconnect
        finally:
            event.cancel()

    def close(self) -> None:
        self._disconnect.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _server_sent_events(first: dict[str, Any], chunks: Chunks) -> AsyncIterator[str]:
    chunk = first
    with contextlib.suppress(ClientDisconnect):
        try:
            yield f"data: {json.dumps(first)}\n\n"
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk)}\n\n"
            if "error" not in chunk:
                yield "data: [DONE]\n\n"
        finally:
            await chunks.aclose()


async def _read_body(request: Request) -> bytes:
    """Read the body. Raises ``ApiError`` if it is too slow, or too long (then after reading it, so that the client gets the error)."""
    data, length = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for block in request.stream():
                length += len(block)
                if length <= MAX_BODY:
                    data += block
                elif length > MAX_DRAIN:
                    break
    except TimeoutError as error:
        raise ApiError(
            408, f"The request body did not arrive within {BODY_TIMEOUT:.0f} s.", code="timeout", Connection="close"
        ) from error
    if length > MAX_BODY:
        raise ApiError(
            413, f"The request body is larger than {MAX_BODY // 2**20} MB.", code="request_too_large", Connection="close"
        )
    return bytes(data)


def _parse_json(body: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The request body is not valid JSON.") from error


async def _api_error(_: Request, error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return await _api_error(request, ApiError(error.status_code, error.detail, code="not_found", **dict(error.headers or {})))


async def _disconnected(*_: Any) -> Response:
    return Response(status_code=499)  # never read


async def _internal_error(request: Request, error: Exception) -> Response:
    return await _api_error(request, ApiError(500, f"Internal error: {type(error).__name__}.", code="server_error"))


class AccessGuard:
    """ASGI middleware that accepts only requests to this machine's own names, from its own pages, with the ``token`` if set.

    A web page in the user's browser can send requests to a server on loopback, and with DNS rebinding even read the responses: the
    page's own name then resolves to 127.0.0.1. Such a request still has that name as its Host, and the page as its Origin.
    Starlette's TrustedHostMiddleware checks neither IP addresses nor the Origin.
    """

    def __init__(self, app: App, host: str, token: str = "") -> None:
        """``host`` is the address that the server listens on."""
        self.app, self.token = app, token
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
        """Raise ``ApiError`` for a request that is not allowed."""
        if not self._is_own(f"//{headers.get('host', '')}", any_address=True):
            raise ApiError(403, "This server accepts requests only to its own address.", code="host_not_allowed")
        if "origin" in headers and not self._is_own(headers["origin"], any_address=False):
            raise ApiError(403, "Web pages from other sites may not use this server.", code="origin_not_allowed")
        expected = f"Bearer {self.token}".encode()
        if self.token and not hmac.compare_digest(headers.get("authorization", "").encode("latin-1"), expected):
            raise ApiError(401, "The API token is missing or invalid.", code="invalid_api_key", **{"WWW-Authenticate": "Bearer"})

    def _is_own(self, url: str, *, any_address: bool) -> bool:
        """Return whether a URL's host is a name of this machine, or an IP address, which cannot be rebound.

        Only loopback addresses count unless ``any_address``.
        """
        try:
            name = (urlsplit(url).hostname or "").lower()
            if name in self.names or name.removesuffix(".local") in self.names:
                return True
            address = ipaddress.ip_address(name)
            return any_address or address.is_loopback
        except ValueError:
            return False


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


def run(app: App, listener: socket.socket, on_start: Callable[[uvicorn.Server], None]) -> None:
    """Serve ``app`` until SIGINT or SIGTERM, or until ``should_exit`` is set on the server passed to ``on_start``."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=2, http=HeaderTimeoutProtocol,
        ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)
    on_start(server)
    server.run(sockets=[listener])
