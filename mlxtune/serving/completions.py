"""OpenAI's chat completions as JSON: what a request asks for, and what a reply says.

Nothing that is asked for is ignored: a parameter that is unknown, or that would change the answer in a way that is not built, is
refused by name (https://platform.openai.com/docs/api-reference/chat/create).
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
from mlxtune.serving.protocol import Accepted, Done, Failed, Sampling

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_READ = frozenset(
    {"model", "messages", "stream", "stream_options", "temperature", "top_p", "seed", "stop", "max_tokens", "max_completion_tokens"}
    | {"tools", "tool_choice", "response_format"}
)
_LABELS = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})  # say who asks, not what
_NEUTRAL: dict[str, Any] = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "logit_bias": {},
    "store": False,
}
_MAX_STOPS = 16


class Refused(Exception):
    """A request that is not answered: HTTP ``status``, OpenAI's ``code``, the parameter it is about, headers of the reply."""

    def __init__(self, status: int, message: str, *, code: str = "invalid_request_error", param: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    @classmethod
    def of(cls, failed: Failed, retry: int) -> Refused:
        """What became of a question, as a refusal; ``retry`` seconds are what a full queue asks for."""
        text = f"{failed.error} {failed.mend}".strip()
        match failed.kind:
            case "full":
                return cls(429, text, code="rate_limit_exceeded", **{"Retry-After": str(retry)})
            case "adapter":
                return cls(422, text, code="model_not_usable", param="model")
            case "input":
                return cls(400, text)
            case "gone":
                return cls(503, text, code="server_error")
        return cls(500, text, code="server_error")

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form of an error."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param or None, "code": self.code}}


@dataclass(frozen=True)
class Wanted:
    """What a request asks for. ``usage`` says whether a stream ends with what it took."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    tools: tuple[dict[str, Any], ...]
    schema: Any
    stream: bool
    usage: bool


def read(body: Any, models: Sequence[str]) -> Wanted:
    """The request in ``body``, a JSON value, for one of ``models``. Raises ``Refused`` with what is wrong, where."""
    if not isinstance(body, dict):
        raise Refused(400, "The body is not a JSON object.")
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name in _READ | _LABELS or (name in _NEUTRAL and value == _NEUTRAL[name]):
            continue
        if name in _NEUTRAL:
            raise Refused(400, f"{name} is not supported.", code="unsupported_parameter", param=name)
        hint = nearest(name, _READ)
        raise Refused(
            400, f"There is no parameter {one_line(name, 60)}{f'; did you mean {hint}?' if hint else ' here.'}",
            code="unknown_parameter", param=one_line(name, 60),
        )  # fmt: skip
    model = _want(given, "model", str, required=True)
    if model not in models:
        hint = nearest(model, models)
        known = f"Did you mean {hint}?" if hint else f"There is {', '.join(models[:5])}{' …' if len(models) > 5 else ''}."
        raise Refused(404, f"There is no model {one_line(model, 80)}. {known}", code="model_not_found", param="model")
    turns = _want(given, "messages", list, required=True)
    if not turns:
        raise Refused(400, "messages is empty.", param="messages")
    options = _want(given, "stream_options", dict, default={})
    if odd := [name for name, value in options.items() if name != "include_usage" and value]:
        raise Refused(
            400, f"stream_options.{one_line(odd[0], 60)} is not supported.", code="unsupported_parameter", param="stream_options"
        )
    tools = _tools(given)
    return Wanted(
        model, tuple(_message(turn, at) for at, turn in enumerate(turns)), _sampling(given), tools, _schema(given),
        _want(given, "stream", bool, default=False), bool(options.get("include_usage")),
    )  # fmt: skip


def _want(given: dict[str, Any], name: str, kind: type | tuple[type, ...], *, required: bool = False, default: Any = None) -> Any:
    """A parameter of a certain type. Raises ``Refused``."""
    if name not in given:
        if required:
            raise Refused(400, f"{name} is missing.", code="missing_required_parameter", param=name)
        return default
    value = given[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = {
            str: "a string",
            list: "a list",
            dict: "an object",
            bool: "true or false",
            int: "a whole number",
            float: "a number",
        }
        raise Refused(400, f"{name} is not {words[kinds[-1]]}.", code="invalid_type", param=name)
    return value


def _sampling(given: dict[str, Any]) -> Sampling:
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise Refused(400, "max_tokens and max_completion_tokens say the same thing: give one.", param="max_tokens")
    stops = given.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise Refused(400, f"stop is not a string or a list of at most {_MAX_STOPS} of them.", param="stop")
    length = "max_tokens" if "max_tokens" in given else "max_completion_tokens"
    how = {
        "max_tokens": _want(given, length, int), "temperature": _want(given, "temperature", (int, float)),
        "top_p": _want(given, "top_p", (int, float)), "seed": _want(given, "seed", int),
    }  # fmt: skip
    try:
        return Sampling(**{name: value for name, value in how.items() if value is not None}, stop=tuple(stops))
    except InputError as error:
        named = error.message.split()[0]
        raise Refused(400, f"{error.message} {error.mend}", param=named if named in given else "stop") from error


def _tools(given: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    tools = _want(given, "tools", list, default=[])
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused(400, 'A tool is not {"type": "function", "function": {"name": …}}.', param="tools")
    choice = given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise Refused(400, 'tool_choice can be "auto" or "none".', code="unsupported_value", param="tool_choice")
    return tuple(tools) if choice == "auto" else ()


def _schema(given: dict[str, Any]) -> Any:
    """The JSON Schema that the answer must fit; ``None`` for any text."""
    asked = _want(given, "response_format", dict, default={"type": "text"})
    match asked.get("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            inner = asked.get("json_schema")
            schema = inner.get("schema") if isinstance(inner, dict) else None
            if isinstance(schema, dict):
                return schema
            raise Refused(400, "response_format.json_schema.schema is not a JSON Schema.", param="response_format")
    raise Refused(400, "response_format.type can be text, json_object or json_schema.", param="response_format")


def _message(turn: Any, at: int) -> Message:
    where = f"messages[{at}]"
    role = turn.get("role") if isinstance(turn, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise Refused(400, f"{where} has no role of {', '.join(_ROLES)}.", param=where)
    odd = {name for name, value in turn.items() if value is not None} - {"role", "content", "name", "tool_calls", "tool_call_id"}
    if odd:
        raise Refused(400, f"{where}.{one_line(min(odd), 60)} is not supported.", code="unsupported_parameter", param=where)
    extra = {name: turn[name] for name in ("name", "tool_call_id") if turn.get(name) is not None}
    if turn.get("tool_calls"):
        extra["tool_calls"] = _calls(turn["tool_calls"], where)
    return Message(_ROLES[role], _content(turn.get("content"), where, bool(extra.get("tool_calls"))), extra)


def _content(content: Any, where: str, calls: bool) -> str:
    if content is None and calls:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise Refused(400, f"{where}.content is not text.", param=where)


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls with their arguments as objects, which is how templates take them."""
    try:
        return [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}} for call in calls
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(400, f"{where}.tool_calls are not calls with JSON arguments.", param=where) from error


@dataclass(frozen=True)
class Reply:
    """What every part of a reply begins with."""

    wanted: Wanted
    fingerprint: str
    id: str
    created: int

    @classmethod
    def to(cls, wanted: Wanted, fingerprint: str) -> Reply:
        return cls(wanted, f"fp_{fingerprint[:12]}", f"chatcmpl-{uuid.uuid4().hex}", int(time.time()))

    def whole(self, text: str, accepted: Accepted, done: Done) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.ended}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(done), **_facts(accepted, done)}

    def chunk(self, delta: dict[str, Any], accepted: Accepted | None = None, done: Done | None = None) -> dict[str, Any]:
        """A part of a stream; the last has what it took."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": done.ended if done else None}
        facts = _facts(accepted, done) if accepted and done else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **facts}

    def usage_chunk(self, done: Done) -> dict[str, Any]:
        """What ends a stream that was asked to include usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(done)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.wanted.model,
            "system_fingerprint": self.fingerprint,
        }


def usage(done: Done) -> dict[str, Any]:
    """Tokens, in OpenAI's words."""
    return {
        "prompt_tokens": done.prompt_tokens, "completion_tokens": done.tokens, "total_tokens": done.prompt_tokens + done.tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached},
    }  # fmt: skip


def _facts(accepted: Accepted, done: Done) -> dict[str, Any]:
    """What OpenAI's replies have not: the seed that brings a drawn answer again, and seconds."""
    times = {"queued": done.waited, "first_token": done.first, "total": done.seconds}
    timing = {f"{name}_s": round(seconds, 4) for name, seconds in times.items()}
    return {"seed": accepted.seed, "timing": {**timing, "tokens_per_s": round(done.speed, 2)}}
