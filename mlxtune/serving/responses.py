"""``/v1/responses``: parse requests, build responses (https://platform.openai.com/docs/api-reference/responses/create).

Responses are not stored, so a request contains the whole conversation.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.serving import api
from mlxtune.serving.api import AnswerRequest, ApiError, CompletedAnswer, Document, Parameters, get
from mlxtune.serving.completions import get_tools, parse_message, parse_schema, text_of
from mlxtune.serving.protocol import GenerateRequest, Piece, ToolCall

_SUPPORTED = api.SAMPLING - {"stop"} | {
    "model", "input", "instructions", "stream", "max_output_tokens", "tools", "tool_choice", "text", "reasoning", "chat_template_kwargs",
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {  # the only accepted values of unsupported parameters
    "background": False, "include": [], "parallel_tool_calls": True, "previous_response_id": None, "conversation": None, "store": False,
    "top_logprobs": 0, "truncation": "disabled", "stream_options": {},
}  # fmt: skip
_TEXTS = ("input_text", "output_text", "reasoning_text", "text")  # types of a part of a message
_FUNCTION = ("name", "description", "parameters")  # the keys of a tool that templates render


def parse_request(body: Any, models: Sequence[str]) -> AnswerRequest:
    """Parse ``body``, a JSON value, as a request to one of ``models``. Raises ``ApiError``."""
    given = api.parameters(body, _SUPPORTED, _DEFAULTS)
    model = api.get_model(given, models)
    reasoning = get(given, "reasoning", dict, default={})
    if unsupported := [name for name, value in reasoning.items() if name != "effort" and value is not None]:
        message = f"reasoning.{one_line(unsupported[0], 60)} is not supported."
        raise ApiError(400, message, code="unsupported_parameter", param="reasoning")
    request = GenerateRequest(
        messages=tuple(parse_message(message, where) for message, where in _messages(given)),
        sampling=api.get_sampling(given, ("max_output_tokens",)), tools=_tools(given), schema=_schema(given),
        effort=get(reasoning, "effort", str, default=""), variables=get(given, "chat_template_kwargs", dict, default={}),
    )  # fmt: skip
    return AnswerRequest(model, request, get(given, "stream", bool, default=False))


def _messages(given: Parameters) -> Iterator[tuple[Document, str]]:
    if instructions := get(given, "instructions", str, default=""):
        yield {"role": "system", "content": instructions}, "instructions"
    items = get(given, "input", str, list, required=True)
    if not items:
        raise ApiError(400, "input must not be empty.", param="input")
    if isinstance(items, str):
        yield {"role": "user", "content": items}, "input"
        return
    turn: Document = {}  # an assistant turn, which consists of several items
    place = ""
    for index, item in enumerate(items):
        where = f"input[{index}]"
        part = _assistant_part(item, where)
        if turn and (part is None or turn.keys() & part.keys() - {"role", "tool_calls"}):
            yield turn, place
            turn = {}
        if part is None:
            yield _message(item, where), where
        else:
            place = place if turn else where
            turn = {**turn, **part, "tool_calls": [*turn.get("tool_calls", []), *part.get("tool_calls", [])]}
    if turn:
        yield turn, place


def _assistant_part(item: Any, where: str) -> Document | None:
    """Return what ``item`` contributes to an assistant turn, or ``None`` if it is another turn."""
    if not isinstance(item, dict):
        raise ApiError(400, f"{where} must be an object.", param=where)
    match item.get("type", "message"):
        case "message" if item.get("role") == "assistant":
            return {"role": "assistant", "content": text_of(item.get("content"), where, *_TEXTS)}
        case "reasoning":
            return {"role": "assistant", "reasoning_content": text_of(item.get("content") or [], where, *_TEXTS)}
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            return {"role": "assistant", "tool_calls": [{"id": item.get("call_id"), "type": "function", "function": function}]}
    return None


def _message(item: Document, where: str) -> Document:
    match item.get("type", "message"):
        case "message":
            return {"role": item.get("role"), "content": text_of(item.get("content"), where, *_TEXTS)}
        case "function_call_output":
            return {
                "role": "tool",
                "tool_call_id": item.get("call_id"),
                "content": text_of(item.get("output"), where, *_TEXTS, field="output"),
            }
    raise ApiError(400, f"{where}.type is not supported.", code="unsupported_value", param=where)


def _tools(given: Parameters) -> tuple[Document, ...]:
    tools = get(given, "tools", list, default=[])
    if not all(isinstance(tool, dict) and tool.get("type") == "function" for tool in tools):
        raise ApiError(400, 'A tool must have the form {"type": "function", "name": …}.', code="unsupported_value", param="tools")
    nested = [{"type": "function", "function": {name: tool[name] for name in _FUNCTION if name in tool}} for tool in tools]
    return get_tools({**given, "tools": nested})


def _schema(given: Parameters) -> Any:
    text = get(given, "text", dict, default={})
    format = get(text, "format", dict, default={"type": "text"})
    return parse_schema(format, format.get("schema"), "text.format", "text.format")


class ModelResponse:
    """Builds the documents of a response: items of reasoning, text, and calls. In a stream, each document is a numbered event."""

    done_marker = False

    def __init__(self, request: AnswerRequest, fingerprint: str) -> None:
        self._model, self._request, self._fingerprint = request.model, request.request, f"fp_{fingerprint[:12]}"
        self._id, self._created = f"resp_{uuid.uuid4().hex}", int(time.time())
        self._numbers = 0  # number of events sent
        self._items: list[Document] = []
        self._open: Document | None = None  # the last item, if its text is still arriving

    def document(self, answer: CompletedAnswer) -> Document:
        id = answer.done.id
        parts: list[Piece | ToolCall] = [Piece(id, answer.reasoning, True), Piece(id, answer.text), *answer.calls]
        for part in parts:
            if isinstance(part, ToolCall) or part.text:
                self.part(part)
        response: Document = self.end(answer)[-1]["response"]
        return response

    def start(self) -> list[Document]:
        return [self._event(f"response.{name}", response=self._response("in_progress")) for name in ("created", "in_progress")]

    def part(self, part: Piece | ToolCall) -> list[Document]:
        if isinstance(part, ToolCall):
            return [*self._close(), *self._call(part)]
        events: list[Document] = []
        if self._open is None or (self._open["type"] == "reasoning") != part.reasoning:
            events = [*self._close(), *self._begin(_text_item(part.reasoning))]
        assert self._open
        self._open["content"][0]["text"] += part.text
        return [*events, self._text_event("delta", delta=part.text)]

    def end(self, answer: CompletedAnswer) -> list[Document]:
        events = [] if self._items else self._begin(_text_item(False))
        status = "incomplete" if answer.done.ended == "length" else "completed"
        return [*events, *self._close(status), self._event(f"response.{status}", response=self._response(status, answer))]

    def failure(self, error: ApiError) -> Document:
        return self._event("error", **error.body["error"] | {"type": "error"})

    def _begin(self, item: Document) -> list[Document]:
        self._items.append(item)
        self._open = item
        return [self._item_event("added", item | {"content": []}), self._part_event("added")]

    def _close(self, status: str = "completed") -> list[Document]:
        if (item := self._open) is None:
            return []
        item["status"] = status
        events = [self._text_event("done", text=item["content"][0]["text"]), self._part_event("done")]
        self._open = None
        return [*events, self._item_event("done", item)]

    def _call(self, call: ToolCall) -> list[Document]:
        ids = {"id": f"fc_{uuid.uuid4().hex}", "call_id": f"call_{uuid.uuid4().hex[:24]}"}
        item = {**ids, "type": "function_call", "status": "completed", "name": call.name, "arguments": call.arguments}
        self._items.append(item)
        place = {"output_index": len(self._items) - 1, "item_id": item["id"]}
        return [
            self._item_event("added", item | {"arguments": "", "status": "in_progress"}),
            self._event("response.function_call_arguments.delta", **place, delta=call.arguments),
            self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments),
            self._item_event("done", item),
        ]

    def _item_event(self, name: str, item: Document) -> Document:
        return self._event(f"response.output_item.{name}", output_index=len(self._items) - 1, item=deepcopy(item))

    def _text_event(self, name: str, **fields: Any) -> Document:
        assert self._open
        kind = self._open["content"][0]["type"]
        logprobs: Document = {"logprobs": []} if kind == "output_text" else {}
        return self._event(f"response.{kind}.{name}", **self._place, **fields, **logprobs)

    def _part_event(self, name: str) -> Document:
        assert self._open
        return self._event(f"response.content_part.{name}", **self._place, part=deepcopy(self._open["content"][0]))

    @property
    def _place(self) -> Document:
        assert self._open
        return {"item_id": self._open["id"], "output_index": len(self._items) - 1, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Document:
        self._numbers += 1
        return {"type": kind, "sequence_number": self._numbers - 1, **fields}

    def _response(self, status: str, answer: CompletedAnswer | None = None) -> Document:
        request = self._request
        tools = [{"type": "function", **tool["function"]} for tool in request.tools]
        format = {"type": "text"} if request.schema is None else {"type": "json_schema", "name": "answer", "schema": request.schema}
        done = answer.done if answer else None
        usage = done and {
            "input_tokens": done.prompt_tokens, "input_tokens_details": {"cached_tokens": done.cached}, "output_tokens": done.tokens,
            "output_tokens_details": {"reasoning_tokens": done.reasoning_tokens}, "total_tokens": done.prompt_tokens + done.tokens,
        }  # fmt: skip
        return {
            "id": self._id, "object": "response", "created_at": self._created, "model": self._model,
            "system_fingerprint": self._fingerprint, "status": status, "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None, "instructions": None,
            "max_output_tokens": request.sampling.max_tokens, "output": deepcopy(self._items), "parallel_tool_calls": True,
            "previous_response_id": None, "reasoning": {"effort": request.effort or None, "summary": None}, "store": False,
            "temperature": request.sampling.temperature, "text": {"format": format}, "tool_choice": "auto", "tools": tools,
            "top_p": request.sampling.top_p, "truncation": "disabled", "usage": usage, "metadata": {},
            **(answer.own_fields if answer else {}),
        }  # fmt: skip


def _text_item(reasoning: bool) -> Document:
    if reasoning:
        content = [{"type": "reasoning_text", "text": ""}]
        return {"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "status": "in_progress", "summary": [], "content": content}
    part: Document = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "status": "in_progress", "role": "assistant", "content": [part]}
