"""OpenAI's chat completions as JSON: parse requests, build responses.

No parameter is ignored: an unknown one, or one that would change the answer but is not supported, is rejected by name
(https://platform.openai.com/docs/api-reference/chat/create). As in vLLM and SGLang, ``chat_template_kwargs`` are variables of the chat
template, and a message has its reasoning in ``reasoning_content``.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.text import nearest, one_line
from mlxtune.data.rows import Message
from mlxtune.serving.protocol import Accepted, Done, Failed, Piece, Sampling, ToolCall

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_SUPPORTED = frozenset(
    {"model", "messages", "stream", "stream_options", "temperature", "top_p", "seed", "stop", "max_tokens", "max_completion_tokens"}
    | {"tools", "tool_choice", "response_format", "reasoning_effort", "chat_template_kwargs"}
)
_METADATA = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})  # do not change the answer
_UNSUPPORTED_DEFAULTS: dict[str, Any] = {  # accepted only with their default value
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "logit_bias": {},
    "parallel_tool_calls": True,
    "store": False,
}
_REASONING = ("reasoning_content", "reasoning")  # what servers call the text before an answer
_MAX_STOPS = 16
_TYPE_NAMES: dict[type, str] = {
    str: "a string",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "an integer",
    float: "a number",
}


class ApiError(Exception):
    """An error response: HTTP ``status``, OpenAI's ``code``, the parameter that caused it, and HTTP headers."""

    def __init__(self, status: int, message: str, *, code: str = "invalid_request_error", param: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    @classmethod
    def from_event(cls, failed: Failed, retry_after: int) -> ApiError:
        """Convert a failed request. If the queue is full, the client should retry after ``retry_after`` seconds."""
        text = f"{failed.error.message} {failed.error.hint}".strip()
        match failed.kind:
            case "full":
                return cls(429, text, code="rate_limit_exceeded", **{"Retry-After": str(retry_after)})
            case "adapter":
                return cls(422, text, code="model_not_usable", param="model")
            case "input":
                return cls(400, text)
            case "gone":
                return cls(503, text, code="server_error")
        return cls(500, text, code="server_error")

    @property
    def body(self) -> dict[str, Any]:
        """The response body in OpenAI's format."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param or None, "code": self.code}}


@dataclass(frozen=True)
class CompletionRequest:
    """A parsed request. With ``include_usage``, a stream ends with token counts."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    tools: tuple[dict[str, Any], ...]
    schema: Any
    effort: str
    variables: dict[str, Any]
    stream: bool
    include_usage: bool


def parse_request(body: Any, models: Sequence[str]) -> CompletionRequest:
    """Parse ``body``, a JSON value, as a request to one of ``models``. Raises ``ApiError``."""
    if not isinstance(body, dict):
        raise ApiError(400, "The request body must be a JSON object.")
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name in _SUPPORTED | _METADATA:
            continue
        if name in _UNSUPPORTED_DEFAULTS:
            if value == _UNSUPPORTED_DEFAULTS[name]:
                continue
            raise ApiError(400, f"{name} is not supported.", code="unsupported_parameter", param=name)
        shown, suggestion = one_line(name, 60), nearest(name, _SUPPORTED)
        message = f"There is no parameter named {shown}" + (f"; did you mean {suggestion}?" if suggestion else ".")
        raise ApiError(400, message, code="unknown_parameter", param=shown)
    model = _get(given, "model", str, required=True)
    if model not in models:
        suggestion = nearest(model, models)
        some = f"Available: {', '.join(models[:5])}{' …' if len(models) > 5 else ''}."
        message = f"There is no model named {one_line(model, 80)}. {f'Did you mean {suggestion}?' if suggestion else some}"
        raise ApiError(404, message, code="model_not_found", param="model")
    messages = _get(given, "messages", list, required=True)
    if not messages:
        raise ApiError(400, "messages must not be empty.", param="messages")
    options = _get(given, "stream_options", dict, default={})
    if unsupported := [name for name, value in options.items() if name != "include_usage" and value]:
        message = f"stream_options.{one_line(unsupported[0], 60)} is not supported."
        raise ApiError(400, message, code="unsupported_parameter", param="stream_options")
    return CompletionRequest(
        model=model,
        tools=_tools(given),
        messages=tuple(_message(message, index) for index, message in enumerate(messages)),
        sampling=_sampling(given),
        schema=_schema(given),
        effort=_get(given, "reasoning_effort", str, default=""),
        variables=_get(given, "chat_template_kwargs", dict, default={}),
        stream=_get(given, "stream", bool, default=False),
        include_usage=bool(options.get("include_usage")),
    )


def _get(given: dict[str, Any], name: str, *types: type, required: bool = False, default: Any = None) -> Any:
    """Return a parameter of one of ``types``. Raises ``ApiError``."""
    if name not in given:
        if required:
            raise ApiError(400, f"{name} is missing.", code="missing_required_parameter", param=name)
        return default
    value = given[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ApiError(400, f"{name} must be {_TYPE_NAMES[types[-1]]}.", code="invalid_type", param=name)
    return value


def _sampling(given: dict[str, Any]) -> Sampling:
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise ApiError(400, "max_tokens and max_completion_tokens mean the same; use only one.", param="max_tokens")
    stops = given.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise ApiError(400, f"stop must be a string or a list of at most {_MAX_STOPS} strings.", param="stop")
    settings = {
        "max_tokens": _get(given, "max_tokens" if "max_tokens" in given else "max_completion_tokens", int),
        "temperature": _get(given, "temperature", int, float),
        "top_p": _get(given, "top_p", int, float),
        "seed": _get(given, "seed", int),
    }
    try:
        return Sampling(**{name: value for name, value in settings.items() if value is not None}, stop=tuple(stops))
    except InputError as error:
        name = error.message.split()[0]
        raise ApiError(400, f"{error.message} {error.hint}".strip(), param=name if name in given else "stop") from error


def _tools(given: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    tools = _get(given, "tools", list, default=[])
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ApiError(400, 'A tool must have the form {"type": "function", "function": {"name": …}}.', param="tools")
    choice = given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise ApiError(400, 'tool_choice must be "auto" or "none".', code="unsupported_value", param="tool_choice")
    return tuple(tools) if choice == "auto" else ()


def _schema(given: dict[str, Any]) -> Any:
    """Return the JSON Schema for the answer, or ``None`` if any text is allowed."""
    response_format = _get(given, "response_format", dict, default={"type": "text"})
    match response_format.get("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            inner = response_format.get("json_schema")
            schema = inner.get("schema") if isinstance(inner, dict) else None
            if isinstance(schema, dict):
                return schema
            raise ApiError(400, "response_format.json_schema.schema must be a valid JSON Schema.", param="response_format")
    raise ApiError(400, "response_format.type must be text, json_object, or json_schema.", param="response_format")


def _message(message: Any, index: int) -> Message:
    where = f"messages[{index}]"
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise ApiError(400, f"{where}.role must be one of {', '.join(_ROLES)}.", param=where)
    names = {name for name, value in message.items() if value is not None}
    if unsupported := names - {"role", "content", "name", "tool_calls", "tool_call_id", *_REASONING}:
        raise ApiError(
            400, f"{where}.{one_line(min(unsupported), 60)} is not supported.", code="unsupported_parameter", param=where
        )
    extra = {name: message[name] for name in ("name", "tool_call_id") if message.get(name) is not None}
    if reasoning := next(filter(None, map(message.get, _REASONING)), None):
        if not isinstance(reasoning, str):
            raise ApiError(400, f"{where}.{_REASONING[0]} must be text.", param=where)
        extra[_REASONING[0]] = reasoning
    if message.get("tool_calls"):
        extra["tool_calls"] = _tool_calls(message["tool_calls"], where)
    return Message(_ROLES[role], _content(message.get("content"), where, has_tool_calls="tool_calls" in extra), extra)


def _content(content: Any, where: str, *, has_tool_calls: bool) -> str:
    if content is None and has_tool_calls:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise ApiError(400, f"{where}.content must be text.", param=where)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Return tool calls with their arguments as objects, which is what templates expect."""
    try:
        return [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}} for call in calls
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ApiError(400, f"{where}.tool_calls must be function calls with JSON arguments.", param=where) from error


@dataclass(frozen=True)
class CompletionResponse:
    """Builds the documents of a response. All chunks share the same ID, time and fingerprint."""

    model: str
    fingerprint: str
    id: str
    created: int

    @classmethod
    def to(cls, request: CompletionRequest, fingerprint: str) -> CompletionResponse:
        return cls(request.model, f"fp_{fingerprint[:12]}", f"chatcmpl-{uuid.uuid4().hex}", int(time.time()))

    def document(self, text: str, reasoning: str, calls: Sequence[ToolCall], accepted: Accepted, done: Done) -> dict[str, Any]:
        """Return the response to a request that does not stream."""
        message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text, "refusal": None}
        message |= {_REASONING[0]: reasoning} if reasoning else {}
        message |= {"tool_calls": [_call(call) for call in calls]} if calls else {}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(done, calls)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": _usage(done), **_own_fields(accepted, done)}

    def first_chunk(self) -> dict[str, Any]:
        """Return the chunk that begins a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece_chunk(self, piece: Piece) -> dict[str, Any]:
        """Return the chunk with a piece of the answer or of the reasoning before it."""
        return self._chunk({_REASONING[0] if piece.reasoning else "content": piece.text})

    def call_chunk(self, call: ToolCall, index: int) -> dict[str, Any]:
        """Return the chunk with a whole call, the ``index``-th of the answer."""
        return self._chunk({"tool_calls": [{"index": index, **_call(call)}]})

    def last_chunk(self, calls: Sequence[ToolCall], accepted: Accepted, done: Done) -> dict[str, Any]:
        """Return the chunk with the finish reason and timing."""
        return self._chunk({}, _finish_reason(done, calls)) | _own_fields(accepted, done)

    def usage_chunk(self, done: Done) -> dict[str, Any]:
        """Return the chunk that ends a stream with ``include_usage``."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(done)}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "system_fingerprint": self.fingerprint}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _finish_reason(done: Done, calls: Sequence[ToolCall]) -> str:
    return "tool_calls" if calls and done.ended == "stop" else done.ended


def _usage(done: Done) -> dict[str, Any]:
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.tokens,
        "total_tokens": done.prompt_tokens + done.tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached},
        **({"completion_tokens_details": {"reasoning_tokens": done.reasoning_tokens}} if done.reasoning_tokens else {}),
    }


def _own_fields(accepted: Accepted, done: Done) -> dict[str, Any]:
    """Return fields beyond OpenAI's: the seed that reproduces a sampled answer, and timing."""
    seconds = {"queued": done.waited, "first_token": done.first, "total": done.seconds}
    timing = {f"{name}_s": round(value, 4) for name, value in seconds.items()}
    return {"seed": accepted.seed, "timing": {**timing, "tokens_per_s": round(done.speed, 2)}}
