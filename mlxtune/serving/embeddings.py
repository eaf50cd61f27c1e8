"""``/v1/embeddings``: parse requests, build responses (https://platform.openai.com/docs/api-reference/embeddings/create).

An embedding is a text's mean hidden state in the base model (``models/text_vectors.py``), scaled to unit length. The base was not trained for
this: a few dimensions are large for every text, so subtract the mean of your embeddings before comparing them.
"""

import base64
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.serving import api
from mlxtune.serving.api import ApiError, Document, get
from mlxtune.serving.completions import parse_prompt
from mlxtune.serving.protocol import Embedded, Prompt

MAX_INPUTS = 2048  # per request, as OpenAI's
_SUPPORTED = frozenset({"model", "input", "encoding_format"})


@dataclass(frozen=True)
class EmbeddingRequest:
    """A parsed request. The vectors are base64 of little-endian float32 if ``encoded``, else lists of numbers."""

    model: str
    inputs: tuple[Prompt, ...]
    encoded: bool


def parse_request(body: Any, base: str, adapters: Sequence[str]) -> EmbeddingRequest:
    """Parse ``body``, a JSON value. Only the ``base`` model computes embeddings. Raises ``ApiError``."""
    given = api.parameters(body, _SUPPORTED)
    model = api.get_model(given, [base, *adapters])
    if model != base:
        raise ApiError(400, f"Only the base model, {base}, computes embeddings.", code="unsupported_value", param="model")
    encoding = get(given, "encoding_format", str, default="float")
    if encoding not in ("float", "base64"):
        raise ApiError(400, "encoding_format must be float or base64.", code="unsupported_value", param="encoding_format")
    value = get(given, "input", str, list, required=True)
    several = isinstance(value, list) and value and not isinstance(value[0], int)
    inputs = [parse_prompt(one, "input") for one in (value if several else [value])]
    if len(inputs) > MAX_INPUTS:
        raise ApiError(400, f"input must have at most {MAX_INPUTS:,} texts.", param="input")
    return EmbeddingRequest(model, tuple(inputs), encoding == "base64")


def build_response(request: EmbeddingRequest, embedded: Embedded) -> Document:
    vectors = [vector if request.encoded else _numbers(vector) for vector in embedded.vectors]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    counts = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": counts}


def _numbers(vector: str) -> list[float]:
    return array("f", base64.b64decode(vector)).tolist()
