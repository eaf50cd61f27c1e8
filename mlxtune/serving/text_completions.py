"""``/v1/completions``: continue a raw prompt, without the chat template (https://platform.openai.com/docs/api-reference/completions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxtune.serving import api
from mlxtune.serving.api import AnswerRequest, ApiError, get
from mlxtune.serving.protocol import Prompt

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
