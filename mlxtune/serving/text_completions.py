"""``/v1/completions``: continue a raw prompt, without the chat template (https://platform.openai.com/docs/api-reference/completions)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from mlxtune.serving import api
from mlxtune.serving.api import AnswerRequest, ApiError, CompletedAnswer, Document, get
from mlxtune.serving.protocol import Piece, Prompt, ToolCall

DEFAULT_MAX_TOKENS = 16  # OpenAI's
_SUPPORTED = api.SAMPLING | {"model", "prompt", "stream", "stream_options", "max_tokens"}
_DEFAULTS: dict[str, Any] = {  # the only accepted values of unsupported parameters
    "n": 1,
    "best_of": 1,
    "echo": False,
    "suffix": "",
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": None,
    "logit_bias": {},
}


def parse_request(body: Any, models: Sequence[str]) -> AnswerRequest:
    """Parse ``body``, a JSON value, as a request to one of ``models``. Raises ``ApiError``."""
    given = api.parameters(body, _SUPPORTED, _DEFAULTS)
    return AnswerRequest(
        model=api.get_model(given, models),
        prompt=parse_prompt(get(given, "prompt", str, list, required=True), "prompt"),
        sampling=api.get_sampling(given, ("max_tokens",), DEFAULT_MAX_TOKENS),
        stream=get(given, "stream", bool, default=False),
        include_usage=api.get_include_usage(given),
    )


def parse_prompt(value: Any, name: str) -> Prompt:
    """Return the text or token IDs in ``value``, which may be a list with a single one of them. Raises ``ApiError``."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return tuple(value)
    raise ApiError(
        400, f"{name} must be a string or a list of token IDs that is not empty; send one prompt per request.", param=name
    )


class TextResponse:
    """Builds the documents of a response. All chunks share the same ID, time and fingerprint."""

    done_marker = True

    def __init__(self, request: AnswerRequest, fingerprint: str) -> None:
        self._include_usage = request.include_usage
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": request.model,
            "system_fingerprint": f"fp_{fingerprint[:12]}",
        }  # fmt: skip

    def document(self, answer: CompletedAnswer) -> Document:
        return self._choice(answer.text, answer.done.ended) | {"usage": api.usage(answer.done), **answer.own_fields}

    def start(self) -> list[Document]:
        return []

    def part(self, part: Piece | ToolCall) -> list[Document]:
        assert isinstance(part, Piece)  # no tools
        return [self._choice(part.text)]

    def end(self, answer: CompletedAnswer) -> list[Document]:
        counts = {**self._head, "choices": [], "usage": api.usage(answer.done)}
        return [self._choice("", answer.done.ended) | answer.own_fields, *([counts] if self._include_usage else [])]

    def failure(self, error: ApiError) -> Document:
        return error.body

    def _choice(self, text: str, finish_reason: str | None = None) -> Document:
        return {**self._head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}]}
