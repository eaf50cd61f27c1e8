"""``/v1/chat/completions``, ``/v1/completions``, which continues a raw prompt, and ``/v1/embeddings``: parse requests, build responses.

Source: https://platform.openai.com/docs/api-reference/chat/create, …/completions, and …/embeddings/create. As in vLLM and SGLang,
``chat_template_kwargs`` are variables of the chat template, and a message has its reasoning in ``reasoning_content``.

An embedding is a text's mean hidden state in the base model (``models/text_vectors.py``), scaled to unit length. The base was not trained for
this: a few dimensions are large for every text, so subtract the mean of your embeddings before comparing them.
"""

import base64
import json
import time
import uuid
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.data.rows import Message
from mlxtune.serving import api
from mlxtune.serving.api import AnswerRequest, ApiError, CompletedAnswer, Document, Parameters, get
from mlxtune.serving.protocol import Embedded, GenerateRequest, Piece, Prompt, ToolCall

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_CHAT_PARAMETERS = api.SAMPLING | {
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "tools", "tool_choice", "response_format",
    "reasoning_effort", "chat_template_kwargs",
}  # fmt: skip
_TEXT_PARAMETERS = api.SAMPLING | {"model", "prompt", "stream", "stream_options", "max_tokens"}
# The only accepted values of unsupported parameters
_DEFAULTS: dict[str, Any] = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}}
_CHAT_DEFAULTS = _DEFAULTS | {"logprobs": False, "parallel_tool_calls": True, "store": False}
_TEXT_DEFAULTS = _DEFAULTS | {"logprobs": None, "best_of": 1, "echo": False, "suffix": ""}
TEXT_MAX_TOKENS = 16  # OpenAI's default for raw prompts
MAX_INPUTS = 2048  # per request for embeddings, as OpenAI's
_EMBEDDING_PARAMETERS = frozenset({"model", "input", "encoding_format"})
_REASONING = ("reasoning_content", "reasoning")  # servers' names for the reasoning before an answer


def parse_chat_request(body: Any, models: Sequence[str]) -> AnswerRequest:
    """Parse ``body``, a JSON value, as a request for a chat completion by one of ``models``. Raises ``ApiError``."""
    given = api.parameters(body, _CHAT_PARAMETERS, _CHAT_DEFAULTS)
    model = api.get_model(given, models)
    messages = get(given, "messages", list, required=True)
    if not messages:
        raise ApiError(400, "messages must not be empty.", param="messages")
    request = GenerateRequest(
        tools=get_tools(given),
        messages=tuple(parse_message(message, f"messages[{index}]") for index, message in enumerate(messages)),
        sampling=api.get_sampling(given, ("max_tokens", "max_completion_tokens")), schema=get_schema(given),
        effort=get(given, "reasoning_effort", str, default=""), variables=get(given, "chat_template_kwargs", dict, default={}),
    )  # fmt: skip
    return AnswerRequest(model, request, get(given, "stream", bool, default=False), api.get_include_usage(given))


def parse_text_request(body: Any, models: Sequence[str]) -> AnswerRequest:
    """Parse ``body``, a JSON value, as a request to continue a raw prompt with one of ``models``. Raises ``ApiError``."""
    given = api.parameters(body, _TEXT_PARAMETERS, _TEXT_DEFAULTS)
    model, prompt = api.get_model(given, models), parse_prompt(get(given, "prompt", str, list, required=True), "prompt")
    request = GenerateRequest(prompt=prompt, sampling=api.get_sampling(given, ("max_tokens",), TEXT_MAX_TOKENS))
    return AnswerRequest(model, request, get(given, "stream", bool, default=False), api.get_include_usage(given))


def parse_prompt(value: Any, name: str) -> Prompt:
    """Return the text or token IDs in ``value``, which may be a list with a single one of them. Raises ``ApiError``."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return tuple(value)
    raise ApiError(400, f"{name} must be a string or a list of token IDs, not empty; send one prompt per request.", param=name)


def get_tools(given: Parameters) -> tuple[Document, ...]:
    """Return the functions that the model may call. Raises ``ApiError``."""
    tools = get(given, "tools", list, default=[])
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ApiError(400, 'A tool must have the form {"type": "function", "function": {"name": …}}.', param="tools")
    choice = given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise ApiError(400, 'tool_choice must be "auto" or "none".', code="unsupported_value", param="tool_choice")
    return tuple(tools) if choice == "auto" else ()


def get_schema(given: Parameters) -> Any:
    """Return the JSON Schema for the answer, or ``None`` if any text is allowed. Raises ``ApiError``."""
    response_format = get(given, "response_format", dict, default={"type": "text"})
    inner = response_format.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    return parse_schema(response_format, schema, "response_format", "response_format.json_schema")


def parse_schema(format: Document, schema: Any, place: str, schema_place: str) -> Any:
    """Return the JSON Schema for an answer in ``format``, which is at ``place`` in a request, as :func:`get_schema` does."""
    param = place.partition(".")[0]
    match format.get("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema" if isinstance(schema, dict):
            return schema
        case "json_schema":
            raise ApiError(400, f"{schema_place}.schema must be a valid JSON Schema.", param=param)
    raise ApiError(400, f"{place}.type must be text, json_object, or json_schema.", param=param)


def parse_message(message: Any, where: str) -> Message:
    """Return the message at ``where`` in the request. Raises ``ApiError``."""
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise ApiError(400, f"{where}.role must be one of {', '.join(_ROLES)}.", param=where)
    names = {name for name, value in message.items() if value is not None}
    if unsupported := names - {"role", "content", "name", "tool_calls", "tool_call_id", *_REASONING}:
        name = one_line(min(unsupported), 60)
        raise ApiError(400, f"{where}.{name} is not supported.", code="unsupported_parameter", param=where)
    extra = {name: message[name] for name in ("name", "tool_call_id") if message.get(name) is not None}
    if reasoning := next(filter(None, map(message.get, _REASONING)), None):
        if not isinstance(reasoning, str):
            raise ApiError(400, f"{where}.{_REASONING[0]} must be text.", param=where)
        extra[_REASONING[0]] = reasoning
    if message.get("tool_calls"):
        extra["tool_calls"] = _tool_calls(message["tool_calls"], where)
    content = message.get("content")
    is_empty = content is None and "tool_calls" in extra
    return Message(_ROLES[role], "" if is_empty else text_of(None if content == [] else content, where, "text"), extra)


def text_of(content: Any, where: str, *kinds: str, field: str = "content") -> str:
    """Return the text in ``content``: a string, or a list of parts of these ``kinds``. Raises ``ApiError``."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") in kinds]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise ApiError(400, f"{where}.{field} must be text.", param=where)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Return tool calls with their arguments as objects, which is what templates expect."""
    try:
        functions = [call["function"] for call in calls]
        arguments = [json.loads(function["arguments"]) for function in functions]
        parsed = [{**one, "function": {**one["function"], "arguments": own}} for one, own in zip(calls, arguments, strict=True)]
        api.require_flat(parsed, f"{where}.tool_calls")
        return parsed
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ApiError(400, f"{where}.tool_calls must be function calls with JSON arguments.", param=where) from error


class CompletionResponse:
    """Builds the documents of a chat completion, or of a text completion if ``request`` has a raw prompt.

    There is one ``document`` for a request that does not stream. A stream has those from ``start``, those of each ``part``, and those at
    its ``end``, or a ``failure``. All share the same ID, time and fingerprint.
    """

    done_marker = True  # `[DONE]` follows the stream's last document

    def __init__(self, request: AnswerRequest, fingerprint: str) -> None:
        self._is_chat, self._include_usage, self._calls = request.request.prompt is None, request.include_usage, 0
        self._head = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if self._is_chat else "text_completion",
            "created": int(time.time()), "model": request.model, "system_fingerprint": f"fp_{fingerprint[:12]}",
        }  # fmt: skip

    def document(self, answer: CompletedAnswer) -> Document:
        content: Document = {"text": answer.text}
        if self._is_chat:
            message: Document = {
                "role": "assistant",
                "content": None if answer.calls and not answer.text else answer.text,
                "refusal": None,
            }
            message |= {_REASONING[0]: answer.reasoning} if answer.reasoning else {}
            message |= {"tool_calls": [_call(call) for call in answer.calls]} if answer.calls else {}
            content = {"message": message}
        document = self._chunk(content, api.finish_reason(answer.done, answer.calls))
        kind = {"object": "chat.completion"} if self._is_chat else {}
        return {**document, **kind, "usage": api.usage(answer.done), **answer.own_fields}

    def start(self) -> list[Document]:
        return [self._chunk({"delta": {"role": "assistant", "content": ""}})] if self._is_chat else []

    def part(self, part: Piece | ToolCall) -> list[Document]:
        if isinstance(part, ToolCall):
            self._calls += 1
            return [self._chunk({"delta": {"tool_calls": [{"index": self._calls - 1, **_call(part)}]}})]
        key = _REASONING[0] if part.reasoning else "content"
        return [self._chunk({"delta": {key: part.text}} if self._is_chat else {"text": part.text})]

    def end(self, answer: CompletedAnswer) -> list[Document]:
        last = self._chunk({"delta": {}} if self._is_chat else {"text": ""}, api.finish_reason(answer.done, answer.calls))
        counts: Document = {**self._head, "choices": [], "usage": api.usage(answer.done)}
        return [last | answer.own_fields, *([counts] if self._include_usage else [])]

    def failure(self, error: ApiError) -> Document:
        return error.body

    def _chunk(self, content: Document, finish_reason: str | None = None) -> Document:
        return {**self._head, "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}]}


def _call(call: ToolCall) -> Document:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


@dataclass(frozen=True)
class EmbeddingRequest:
    """A parsed request. The vectors are base64 of little-endian float32 if ``encoded``, else lists of numbers."""

    model: str
    inputs: tuple[Prompt, ...]
    encoded: bool


def parse_embedding_request(body: Any, base: str, adapters: Sequence[str]) -> EmbeddingRequest:
    """Parse ``body``, a JSON value. Only the ``base`` model computes embeddings. Raises ``ApiError``."""
    given = api.parameters(body, _EMBEDDING_PARAMETERS)
    model = api.get_model(given, [base, *adapters])
    if model != base:
        raise ApiError(400, f"Only the base model, {base}, computes embeddings.", code="unsupported_value", param="model")
    encoding = get(given, "encoding_format", str, default="float")
    if encoding not in ("float", "base64"):
        raise ApiError(400, "encoding_format must be float or base64.", code="unsupported_value", param="encoding_format")
    value = get(given, "input", str, list, required=True)
    several = isinstance(value, list) and value and not isinstance(value[0], int)
    if several and len(value) > MAX_INPUTS:
        raise ApiError(400, f"input must have at most {MAX_INPUTS:,} texts.", param="input")
    inputs = tuple(parse_prompt(one, "input") for one in (value if several else [value]))
    return EmbeddingRequest(model, inputs, encoding == "base64")


def embedding_response(request: EmbeddingRequest, embedded: Embedded) -> Document:
    vectors = [vector if request.encoded else array("f", base64.b64decode(vector)).tolist() for vector in embedded.vectors]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    counts = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": counts}
