"""An OpenAI-style server over one base and its adapters: ``/v1/models`` and ``/v1/chat/completions``. No mlx here.

It turns requests into questions to the process that computes (``client.py``) and events into replies. The adapter is chosen by
``model``, request by request. When a client hangs up, its question is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.serving import shelf
from mlxtune.serving.client import Answer, Client
from mlxtune.serving.completions import Refused, Reply, Wanted, read
from mlxtune.serving.guard import App, Guard
from mlxtune.serving.protocol import Accepted, Done, Event, Failed, Piece

BODY = 4 * 2**20  # bytes of a request
PATIENCE = 60.0  # seconds that a request's body may take to arrive
DRAIN = 64 * 2**20  # bytes of a longer one that are read, and let go, so that its sender hears the reply
_RETRY = (1, 60)  # seconds that a client is told to wait when the queue is full

Told = Callable[[str, Done | Failed], None]
Parts = AsyncGenerator[dict[str, Any], None]


class Server:
    """Answers over ``client``, whose base is loaded. ``slots`` and ``queue`` are those of its engine.

    ``told`` hears which model's request ended how.
    """

    def __init__(
        self, client: Client, workspace: Path, *, slots: int, queue: int, told: Told = lambda model, ended: None
    ) -> None:  # fmt: skip
        self.client, self.workspace, self.places = client, workspace, slots + queue
        self.ready = client.ready()
        self.told = told
        self._open = 0  # requests that have no reply yet
        self._last = 1.0  # seconds that the last answer took

    def app(self, host: str, token: str = "") -> App:
        """The ASGI application, guarded."""
        routes = [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
        ]
        handlers: dict[Any, Any] = {Refused: _refused, HTTPException: _not_here, ClientDisconnect: _hung_up, Exception: _fault}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), host, token)

    async def health(self, _: Request) -> Response:
        """Whether it works, and how much it has to do."""
        return JSONResponse({"status": "ok", "base": self.ready.base, "open": self._open, "places": self.places})

    async def models(self, _: Request) -> Response:
        """The base and every adapter of it."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in await self._names()]})

    async def model(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        if name not in await self._names():
            raise Refused(404, f"There is no model {one_line(name, 80)}.", code="model_not_found", param="model")
        return JSONResponse(self._model(name))

    async def complete(self, request: Request) -> Response:
        """An answer, whole or as a stream of server-sent events."""
        if self._open >= self.places:
            raise self._full()
        self._open += 1
        try:
            wanted = read(_parsed(await _body(request)), await self._names())
            events = _Events(request)
            answer = self.client.ask(
                wanted.messages, adapter="" if wanted.model == self.ready.base else wanted.model, sampling=wanted.sampling,
                tools=wanted.tools, schema=wanted.schema, tell=events.tell,
            )  # fmt: skip
        except BaseException:
            self._open -= 1
            raise
        parts = self._parts(wanted, answer, events)
        try:
            first = await anext(parts)
        except BaseException:
            await parts.aclose()
            raise
        if wanted.stream:
            return StreamingResponse(_streamed(first, parts), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        await parts.aclose()
        return JSONResponse(first)

    async def _parts(self, wanted: Wanted, answer: Answer, events: _Events) -> Parts:
        """The documents of a reply: one, or many for a stream.

        Raises ``Refused`` before the first where there is no answer, and ``ClientDisconnect`` when the client hung up.
        """
        reply = Reply.to(wanted, self.ready.fingerprint)
        try:
            accepted = await events.next()
            event = await events.next() if isinstance(accepted, Accepted) else accepted
            if isinstance(event, Failed) or not isinstance(accepted, Accepted):
                raise self._failed(wanted, event)
            if wanted.stream:
                yield reply.chunk({"role": "assistant", "content": ""})
            said: list[str] = []
            while isinstance(event, Piece):
                if wanted.stream:
                    yield reply.chunk({"content": event.text})
                else:
                    said.append(event.text)
                event = await events.next()
            if not isinstance(event, Done):
                failed = self._failed(wanted, event)
                if not wanted.stream:
                    raise failed
                yield failed.body
                return
            self._last = event.seconds
            self.told(wanted.model, event)
            if not wanted.stream:
                yield reply.whole("".join(said), accepted, event)
                return
            yield reply.chunk({}, accepted, event)
            if wanted.usage:
                yield reply.usage_chunk(event)
        finally:
            self._open -= 1
            answer.cancel()
            events.close()

    def _failed(self, wanted: Wanted, event: Event) -> Refused:
        assert isinstance(event, Failed), event
        self.told(wanted.model, event)
        return Refused.of(event, self._retry)

    def _full(self) -> Refused:
        return Refused(429, "Too many requests wait already.", code="rate_limit_exceeded", **{"Retry-After": str(self._retry)})

    @property
    def _retry(self) -> int:
        return min(max(_RETRY[0], math.ceil(self._last)), _RETRY[1])

    async def _names(self) -> list[str]:
        found = await asyncio.to_thread(shelf.fitting, self.workspace, self.ready.fingerprint)
        return [self.ready.base, *(one.name for one in found)]

    def _model(self, name: str) -> dict[str, Any]:
        parent = None if name == self.ready.base else self.ready.base
        return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "mlxtune", "parent": parent}


class _Events:
    """The events of one question, awaited; a client that hangs up ends the wait."""

    def __init__(self, request: Request) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._gone = asyncio.ensure_future(self._hung_up(request))

    def tell(self, event: Event) -> None:
        """Called from the client's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def next(self) -> Event:
        """The next event. Raises ``ClientDisconnect``."""
        event = asyncio.ensure_future(self._queue.get())
        try:
            await asyncio.wait([event, self._gone], return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                return event.result()
            raise ClientDisconnect
        finally:
            event.cancel()

    def close(self) -> None:
        self._gone.cancel()

    async def _hung_up(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass


async def _streamed(first: dict[str, Any], parts: Parts) -> AsyncIterator[str]:
    """``parts`` as server-sent events."""
    part = first
    with contextlib.suppress(ClientDisconnect):
        try:
            yield f"data: {json.dumps(first)}\n\n"
            async for part in parts:
                yield f"data: {json.dumps(part)}\n\n"
            if "error" not in part:
                yield "data: [DONE]\n\n"
        finally:
            await parts.aclose()


async def _body(request: Request) -> bytes:
    """The body. Raises ``Refused`` when it is too long, after most of it was read, so that the sender hears why; or too slow."""
    data, length = bytearray(), 0
    try:
        async with asyncio.timeout(PATIENCE):
            async for block in request.stream():
                length += len(block)
                if length <= BODY:
                    data += block
                elif length > DRAIN:
                    break
    except TimeoutError as error:
        raise Refused(408, f"The body did not arrive within {PATIENCE:.0f} s.", code="timeout", Connection="close") from error
    if length > BODY:
        raise Refused(413, f"The body has more than {BODY // 2**20} MB.", code="request_too_large", Connection="close")
    return bytes(data)


def _parsed(body: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is not valid JSON.") from error


async def _refused(_: Request, no: Refused) -> Response:
    return JSONResponse(no.body, no.status, no.headers)


async def _not_here(request: Request, error: HTTPException) -> Response:
    return await _refused(request, Refused(error.status_code, error.detail, code="not_found", **dict(error.headers or {})))


async def _hung_up(*_: Any) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _fault(request: Request, error: Exception) -> Response:
    return await _refused(request, Refused(500, f"A fault of ours: {type(error).__name__}.", code="server_error"))


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on. Raises ``InputError`` when it cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise InputError(
            f"{host}:{port} cannot be listened on: {reason}.", mend="Take another: --port 0 finds a free one."
        ) from error


def run(app: App, place: socket.socket, on_start: Callable[[uvicorn.Server], None]) -> None:
    """Serve ``app`` until SIGINT or SIGTERM, or until ``should_exit`` is set on the server that ``on_start`` is given."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=2, http="h11", ws="none"
    )  # fmt: skip
    server = uvicorn.Server(config)
    on_start(server)
    server.run(sockets=[place])
