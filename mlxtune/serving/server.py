"""OpenAI-compatible server for one base model and its adapters. Does not import mlx.

It converts HTTP requests to requests to the model process (``client.py``) and its events to responses: ``/v1/chat/completions``,
``/v1/completions``, ``/v1/responses``, ``/v1/embeddings``, ``/v1/models``, ``/health``, and ``/metrics``. The request's ``model``
selects the adapter. The library is read for every request, so an adapter that is added or replaced is served immediately. A request
is canceled when its client disconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import json.scanner
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import prometheus_client as prometheus
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlxtune.adapters import library
from mlxtune.serving import completions, protocol, responses
from mlxtune.serving.access_guard import guarded
from mlxtune.serving.api import AnswerRequest, ApiError, CompletedAnswer, Document, get_model, require_flat
from mlxtune.serving.model_host import ModelHost
from mlxtune.serving.protocol import Accepted, Done, Embedded, EmbedRequest, Event, Failed, GenerateRequest, Piece, ToolCall

MAX_BODY = 4 * 2**20  # bytes of a request
BODY_TIMEOUT = 60.0  # seconds
LONG_BODY = 2**16  # bytes of a body that is parsed without holding up other requests, one at a time
MAX_DRAIN = 64 * 2**20  # bytes of a longer body to read and discard, so that the client receives the error
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # upper bounds of the metrics' seconds
_RETRY_AFTER = (1, 60)  # shortest and longest Retry-After in seconds, when the queue is full

Parsed = TypeVar("Parsed")
Chunks = AsyncGenerator[Document, None]
Parse = Callable[[Any, Sequence[str]], AnswerRequest]
ResponseFormat = completions.CompletionResponse | responses.ModelResponse
Format = Callable[[AnswerRequest, str], ResponseFormat]
_ANSWERS: dict[str, tuple[Parse, Format]] = {
    "/v1/chat/completions": (completions.parse_chat_request, completions.CompletionResponse),
    "/v1/completions": (completions.parse_text_request, completions.CompletionResponse),
    "/v1/responses": (responses.parse_request, responses.ModelResponse),
}


class Metrics:
    """Counts requests, answers and tokens, in Prometheus's text format. Every ``model`` is the base or an adapter."""

    def __init__(self, gauges: Sequence[tuple[str, str, Callable[[], float]]]) -> None:
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus.CollectorRegistry()
        named: dict[str, Any] = {"namespace": "mlxtune", "registry": self.registry}
        self.requests = prometheus.Counter("http_requests_total", "HTTP responses.", ["path", "status"], **named)
        self._answers = prometheus.Counter("answers_total", "Answers, by how they ended.", ["model", "ended"], **named)
        prompt, cached = "Prompt tokens, including those from the cache.", "Prompt tokens from the cache of earlier prompts."
        self._prompt_tokens = prometheus.Counter("prompt_tokens_total", prompt, ["model"], **named)
        self._cached_tokens = prometheus.Counter("cached_prompt_tokens_total", cached, ["model"], **named)
        self._generated_tokens = prometheus.Counter("generated_tokens_total", "Generated tokens.", ["model"], **named)
        timed = {**named, "buckets": _BUCKETS}
        self._seconds = prometheus.Histogram("answer_seconds", "Time from a request to the end of its answer.", **timed)
        self._first_token_seconds = prometheus.Histogram("first_token_seconds", "Time from a request to its first token.", **timed)
        for name, help, value in gauges:
            prometheus.Gauge(name, help, **named).set_function(value)

    def add_answer(self, model: str, event: Done | Failed) -> None:
        self._answers.labels(model, event.ended if isinstance(event, Done) else "failed").inc()
        if isinstance(event, Done):
            self._prompt_tokens.labels(model).inc(event.prompt_tokens)
            self._cached_tokens.labels(model).inc(event.cached)
            self._generated_tokens.labels(model).inc(event.tokens)
            self._seconds.observe(event.seconds)
            self._first_token_seconds.observe(event.waited + event.first)


class Server:
    """Serves the model of ``host``, whose engine has ``slots`` and ``queue``. ``on_finish`` gets the model of each request."""

    def __init__(
        self, host: ModelHost, workspace: Path, *, slots: int, queue: int,
        on_finish: Callable[[str, Done | Failed], None] = lambda model, event: None,
    ) -> None:  # fmt: skip
        self.host, self.workspace, self.capacity = host, workspace, slots + queue
        self.on_finish = on_finish
        self._open = 0  # requests without a response
        is_open = ("open_requests", "Requests without a response.", lambda: self._open)
        self.metrics = Metrics([is_open, ("model_loaded", "Whether the model is in memory.", lambda: self.host.loaded)])
        self._long_body = asyncio.Lock()
        self._last_seconds = 1.0  # duration of the last answer

    def app(self, host: str, token: str = "", origins: Collection[str] = ()) -> ASGIApp:
        """Return the ASGI application; see :func:`~mlxtune.serving.access_guard.guarded`."""
        routes = [
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.get_model, methods=["GET"]),
            *(Route(path, partial(self._answer, *handlers), methods=["POST"]) for path, handlers in _ANSWERS.items()),
            Route("/v1/embeddings", self.create_embeddings, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.show_metrics, methods=["GET"]),
        ]
        handlers = dict.fromkeys([ApiError, HTTPException, ClientDisconnect, Exception], _error_response)
        app = guarded(Starlette(routes=routes, exception_handlers=handlers), host, token, origins)
        return self._counting(app, {route.path.partition("/{")[0] for route in routes})

    async def health(self, _: Request) -> Response:
        state = {"open": self._open, "places": self.capacity, "loaded": self.host.loaded}
        return JSONResponse({"status": "ok", "base": self.host.ready.base, **state})

    async def show_metrics(self, _: Request) -> Response:
        return Response(prometheus.generate_latest(self.metrics.registry), media_type=prometheus.CONTENT_TYPE_PLAIN_0_0_4)

    async def list_models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(name) for name in await self._model_names()]})

    async def get_model(self, request: Request) -> Response:
        wanted = {"model": request.path_params["name"]}
        return JSONResponse(self._model(get_model(wanted, await self._model_names())))

    async def create_embeddings(self, request: Request) -> Response:
        with self._place():
            base, *adapters = await self._model_names()
            body = await _read_body(request)
            wanted = await self._parse(body, lambda value: completions.parse_embedding_request(value, base, adapters))
            async with self._events(request, EmbedRequest("", wanted.inputs)) as events:
                event = await events.next()
            if isinstance(event, Failed):
                self.on_finish(wanted.model, event)
                raise ApiError.from_event(event, self._retry_after)
            assert isinstance(event, Embedded), event
            return JSONResponse(completions.embedding_response(wanted, event))

    async def _answer(self, parse: Parse, format: Format, request: Request) -> Response:
        """Answer ``request``, as one document or as a stream of server-sent events."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._place())
            body, names = await _read_body(request), await self._model_names()
            wanted = await self._parse(body, lambda value: parse(value, names))
            given = wanted.request.messages if wanted.request.prompt is None else wanted.request.prompt
            characters = len(given) if isinstance(given, str) else sum(len(turn.content) for turn in wanted.request.messages)
            bound = characters // (2 * self.host.ready.longest_token)  # a template may leave out a part
            least = bound if isinstance(given, str) else max(bound, len(given))
            if least > (context := self.host.ready.context):
                raise self._failure(wanted.model, Failed("", protocol.too_long("The prompt", least, context, "at least ")))
            adapter = "" if wanted.model == self.host.ready.base else wanted.model
            events = await stack.enter_async_context(self._events(request, replace(wanted.request, adapter=adapter)))
            response = format(wanted, self.host.ready.fingerprint)
            chunks = self._chunks(wanted, response, events, stack.pop_all())
        first = await anext(chunks)
        if wanted.stream:
            stream = _server_sent_events(first, chunks, response.done_marker)
            return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        await chunks.aclose()
        return JSONResponse(first)

    @contextlib.asynccontextmanager
    async def _events(self, request: Request, wanted: GenerateRequest | EmbedRequest) -> AsyncIterator[_EventQueue]:
        """Send ``wanted`` to the model process, yield its events, and cancel it at the end."""
        async with self.host.client() as client:
            events = _EventQueue(request)
            pending = await asyncio.to_thread(client.send, wanted, on_event=events.put)
            try:
                yield events
            finally:
                pending.cancel()
                events.close()

    async def _parse(self, body: bytes, parse: Callable[[Any], Parsed]) -> Parsed:
        """Parse ``body`` in a thread; long ones one at a time, so that many do not take the time of the others."""
        async with self._long_body if len(body) > LONG_BODY else contextlib.nullcontext():
            return await asyncio.to_thread(lambda: parse(_parse_json(body)))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._open >= self.capacity:
            headers = {"Retry-After": str(self._retry_after)}
            raise ApiError(429, "Too many requests are waiting.", code="rate_limit_exceeded", **headers)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def _chunks(
        self, wanted: AnswerRequest, response: ResponseFormat, events: _EventQueue, stack: contextlib.AsyncExitStack
    ) -> Chunks:
        """Yield the documents of a response: one, or many for a stream. Closes ``stack`` afterward.

        Raises ``ApiError`` before the first document if there is no answer, and ``ClientDisconnect`` when the client disconnects.
        """
        try:
            accepted = await events.next()
            event = await events.next() if isinstance(accepted, Accepted) else accepted
            if isinstance(event, Failed) or not isinstance(accepted, Accepted):
                raise self._failure(wanted.model, event)
            for document in response.start() if wanted.stream else ():
                yield document
            pieces: dict[bool, list[str]] = {True: [], False: []}
            calls: list[ToolCall] = []
            while isinstance(event, Piece | ToolCall):
                for document in response.part(event) if wanted.stream else ():
                    yield document
                if isinstance(event, Piece):
                    pieces[event.reasoning].append(event.text)
                else:
                    calls.append(event)
                event = await events.next()
            if not isinstance(event, Done):
                failure = self._failure(wanted.model, event)
                if not wanted.stream:
                    raise failure
                yield response.failure(failure)
                return
            self._last_seconds = event.seconds
            self._finish(wanted.model, event)
            complete = CompletedAnswer("".join(pieces[False]), "".join(pieces[True]).rstrip(), calls, accepted, event)
            for document in response.end(complete) if wanted.stream else [response.document(complete)]:
                yield document
        finally:
            await stack.aclose()

    def _failure(self, model: str, event: Event) -> ApiError:
        assert isinstance(event, Failed), event
        self._finish(model, event)
        return ApiError.from_event(event, self._retry_after)

    def _finish(self, model: str, event: Done | Failed) -> None:
        self.metrics.add_answer(model, event)
        self.on_finish(model, event)

    def _counting(self, app: ASGIApp, paths: Collection[str]) -> ASGIApp:
        """Return ``app`` with its responses counted by path, which is one of ``paths`` or ``other``."""

        async def counting_app(scope: Scope, receive: Receive, send: Send) -> None:
            path: str = scope.get("path", "")
            path = "/v1/models" if path.startswith("/v1/models/") else path if path in paths else "other"

            async def counting_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self.metrics.requests.labels(path, message["status"]).inc()
                await send(message)

            await app(scope, receive, counting_send)

        return counting_app

    @property
    def _retry_after(self) -> int:
        shortest, longest = _RETRY_AFTER
        return min(max(shortest, math.ceil(self._last_seconds)), longest)

    async def _model_names(self) -> list[str]:
        adapters = await asyncio.to_thread(library.compatible_adapters, self.workspace, self.host.ready.fingerprint)
        return [self.host.ready.base, *(adapter.name for adapter in adapters)]

    def _model(self, name: str) -> Document:
        parent = None if name == self.host.ready.base else self.host.ready.base
        return {"id": name, "object": "model", "created": int(time.time()), "owned_by": "mlxtune", "parent": parent}


class _EventQueue:
    """The events of one request. Waiting ends when the client disconnects."""

    def __init__(self, request: Request) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()  # None follows when the client has disconnected
        self._disconnect = asyncio.ensure_future(self._wait_for_disconnect(request))

    def put(self, event: Event) -> None:
        """Add an event. Called from the client's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def next(self) -> Event:
        """Return the next event. Raises ``ClientDisconnect``."""
        event = await self._queue.get()
        if event is None:
            raise ClientDisconnect
        return event

    def close(self) -> None:
        self._disconnect.cancel()

    async def _wait_for_disconnect(self, request: Request) -> None:
        try:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        finally:
            self._queue.put_nowait(None)


async def _server_sent_events(first: Document, chunks: Chunks, done_marker: bool) -> AsyncIterator[str]:
    """Yield the events of a stream. An event has a name if its document has a type."""
    chunk = first
    with contextlib.suppress(ClientDisconnect):
        try:
            yield _event(first)
            async for chunk in chunks:
                yield _event(chunk)
            if done_marker and "error" not in chunk:
                yield "data: [DONE]\n\n"
        finally:
            await chunks.aclose()


def _event(document: Document) -> str:
    name = f"event: {document['type']}\n" if "type" in document else ""
    return f"{name}data: {json.dumps(document)}\n\n"


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
        message = f"The request body did not arrive within {BODY_TIMEOUT:.0f} s."
        raise ApiError(408, message, code="timeout", Connection="close") from error
    if length > MAX_BODY:
        raise ApiError(413, f"The request body is over {MAX_BODY // 2**20} MB.", code="request_too_large", Connection="close")
    return bytes(data)


class _InterruptibleDecoder(json.JSONDecoder):
    """Parses in Python, so that other threads run meanwhile: the parser in C holds the interpreter's lock until it is done."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def _parse_json(body: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(body, cls=_InterruptibleDecoder if len(body) > LONG_BODY else None, parse_constant=refuse)
        require_flat(value)
        return value
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The request body is not valid JSON.") from error


async def _error_response(_: Request, error: Exception) -> Response:
    match error:
        case ApiError():
            own = error
        case HTTPException():
            own = ApiError(error.status_code, error.detail, code="not_found", **dict(error.headers or {}))
        case ClientDisconnect():
            return Response(status_code=499)  # never read
        case _:
            own = ApiError(500, f"Internal error: {type(error).__name__}.", code="server_error")
    return JSONResponse(own.body, own.status, own.headers)
