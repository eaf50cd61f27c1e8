"""The parts of OpenAI's API that the endpoints share: errors, checked parameters, and the interface of a response.

No parameter is ignored: an unknown one, or one that would change the answer but is not supported, is rejected by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mlxtune.core.errors import GpuError, InputError, MachineError
from mlxtune.core.text import nearest, one_line
from mlxtune.data.rows import is_deeper
from mlxtune.serving import protocol

METADATA = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})  # parameters that do not change the answer
SAMPLING = frozenset({"temperature", "top_p", "seed", "stop"})
_MAX_STOPS = 16
_MAX_DEPTH = 100  # levels of nesting, of which each is a call of a function where a request is converted
_TYPE_NAMES: dict[type, str] = {
    str: "a string", list: "a list", dict: "an object", bool: "true or false", int: "an integer", float: "a number",
}  # fmt: skip

Document = dict[str, Any]
Parameters = dict[str, Any]


class ApiError(Exception):
    """An error response: HTTP ``status``, OpenAI's ``code``, the parameter that caused it, and HTTP headers."""

    def __init__(self, status: int, message: str, *, code: str = "invalid_request_error", param: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    @classmethod
    def from_event(cls, failed: protocol.Failed, retry_after: int) -> ApiError:
        """Convert a failed request. If the queue is full, the client should retry after ``retry_after`` seconds."""
        text = f"{failed.error.message} {failed.error.hint}".strip()
        match failed.error:
            case protocol.QueueFullError():
                return cls(429, text, code="rate_limit_exceeded", **{"Retry-After": str(retry_after)})
            case protocol.AdapterUnavailableError():
                return cls(422, text, code="model_not_usable", param="model")
            case InputError():
                return cls(400, text)
            case MachineError() if not isinstance(failed.error, GpuError):
                return cls(503, text, code="server_error")
        return cls(500, text, code="server_error")

    @property
    def body(self) -> Document:
        """The response body in OpenAI's format."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param or None, "code": self.code}}


@dataclass(frozen=True)
class AnswerRequest:
    """A parsed request to ``model``, and the form of its response."""

    model: str
    request: protocol.GenerateRequest
    stream: bool = False
    include_usage: bool = False  # a stream ends with token counts


@dataclass(frozen=True)
class CompletedAnswer:
    text: str
    reasoning: str
    calls: Sequence[protocol.ToolCall]
    accepted: protocol.Accepted
    done: protocol.Done

    @property
    def own_fields(self) -> Document:
        """Fields beyond OpenAI's: the seed that reproduces a sampled answer, and timing."""
        done = self.done
        seconds = {"queued": done.waited, "first_token": done.first, "total": done.seconds}
        timing = {f"{name}_s": round(value, 4) for name, value in seconds.items()}
        return {"seed": self.accepted.seed, "timing": {**timing, "tokens_per_s": round(done.speed, 2)}}


def require_flat(value: Any, where: str = "The request body") -> None:
    """Raise ``ApiError`` if a JSON value is nested so deeply that it could not be passed on."""
    if is_deeper(value, _MAX_DEPTH):
        raise ApiError(400, f"{where} is nested more than {_MAX_DEPTH} levels deep.")


def parameters(body: Any, supported: Collection[str], defaults: Mapping[str, Any] = MappingProxyType({})) -> Parameters:
    """Return the parameters in ``body``, a JSON value. Those in ``defaults`` are accepted only with that value.

    Raises ``ApiError`` for a parameter that is not in ``supported``.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "The request body must be a JSON object.")
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name in supported or name in METADATA or (name in defaults and value == defaults[name]):
            continue
        if name in defaults:
            raise ApiError(400, f"{name} is not supported.", code="unsupported_parameter", param=name)
        shown, suggestion = one_line(name, 60), nearest(name, supported, 0.6)
        message = f"There is no parameter named {shown}" + (f"; did you mean {suggestion}?" if suggestion else ".")
        raise ApiError(400, message, code="unknown_parameter", param=shown)
    return given


def get(given: Parameters, name: str, *types: type, required: bool = False, default: Any = None) -> Any:
    """Return a parameter of one of ``types``. Raises ``ApiError``."""
    if name not in given:
        if required:
            raise ApiError(400, f"{name} is missing.", code="missing_required_parameter", param=name)
        return default
    value = given[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ApiError(400, f"{name} must be {_TYPE_NAMES[types[-1]]}.", code="invalid_type", param=name)
    return value


def get_model(given: Parameters, models: Sequence[str]) -> str:
    """Return the requested model, one of ``models``. Raises ``ApiError``."""
    model: str = get(given, "model", str, required=True)
    if model not in models:
        suggestion = nearest(model, models)
        some = f"Available: {', '.join(models[:5])}{' …' if len(models) > 5 else ''}."
        message = f"There is no model named {one_line(model, 80)}. {f'Did you mean {suggestion}?' if suggestion else some}"
        raise ApiError(404, message, code="model_not_found", param="model")
    return model


def get_sampling(given: Parameters, limits: Sequence[str], default_limit: int = protocol.Sampling.max_tokens) -> protocol.Sampling:
    """Return how to sample. ``limits`` are the parameter's names for the largest number of tokens. Raises ``ApiError``."""
    used = [name for name in limits if name in given]
    if len(used) > 1:
        raise ApiError(400, f"{' and '.join(used)} mean the same; use only one.", param=used[0])
    limit = used[0] if used else limits[0]
    stops = given.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise ApiError(400, f"stop must be a string or a list of at most {_MAX_STOPS} strings.", param="stop")
    settings = {
        "max_tokens": get(given, limit, int, default=default_limit), "temperature": get(given, "temperature", int, float),
        "top_p": get(given, "top_p", int, float), "seed": get(given, "seed", int),
    }  # fmt: skip
    try:
        return protocol.Sampling(**{name: value for name, value in settings.items() if value is not None}, stop=tuple(stops))
    except protocol.SamplingError as error:
        name = limit if error.name == "max_tokens" else error.name
        raise ApiError(400, f"{name} {error.problem}", param=name) from error


def get_include_usage(given: Parameters) -> bool:
    """Return whether a stream ends with token counts. Raises ``ApiError`` for other stream options."""
    options = get(given, "stream_options", dict, default={})
    if unsupported := [name for name, value in options.items() if name != "include_usage" and value]:
        message = f"stream_options.{one_line(unsupported[0], 60)} is not supported."
        raise ApiError(400, message, code="unsupported_parameter", param="stream_options")
    return bool(options.get("include_usage"))


def finish_reason(done: protocol.Done, calls: Sequence[protocol.ToolCall] = ()) -> str:
    """Return why the answer ended, in OpenAI's words for completions."""
    return "tool_calls" if calls and done.ended == "stop" else done.ended


def usage(done: protocol.Done) -> Document:
    """Return the token counts of an answer, in OpenAI's format for completions."""
    return {
        "prompt_tokens": done.prompt_tokens, "completion_tokens": done.tokens, "total_tokens": done.prompt_tokens + done.tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached},
        **({"completion_tokens_details": {"reasoning_tokens": done.reasoning_tokens}} if done.reasoning_tokens else {}),
    }  # fmt: skip
