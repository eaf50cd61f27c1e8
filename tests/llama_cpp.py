"""llama.cpp itself, from the package xllamacpp."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.adapters.export.llama_server import LlamaSettings, llama_server

CONTEXT = 512


@dataclass(frozen=True)
class Llama:
    """A llama.cpp server with one model, at ``url``."""

    url: str

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON answer to a request."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text`` as in a prompt: with the BOS token that the model adds, and control tokens recognized."""
        tokens: list[int] = self.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        return tokens

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], list[dict[int, float]]]:
        """Return the next ``count`` greedy tokens, and the log-probabilities of the likeliest tokens at each."""
        answer = self.post(
            "/completion",
            {"prompt": list(prompt), "n_predict": count, "temperature": 0, "n_probs": 5, "return_tokens": True}
            | {"cache_prompt": False, "ignore_eos": True},
        )
        likeliest = [{one["id"]: one["logprob"] for one in token["top_logprobs"]} for token in answer["completion_probabilities"]]
        assert len(likeliest) == len(answer["tokens"])
        return answer["tokens"], likeliest


@contextmanager
def llama(
    model: Path, lora: Path | None = None, context: int = CONTEXT, *, template: str = "", exact: bool = True
) -> Iterator[Llama]:
    """Run a server with the GGUF file ``model``, and the adapter ``lora`` if given.

    ``template`` replaces the chat template in the file. If ``exact``, attention is computed in float32, otherwise as by default.
    """
    with llama_server(LlamaSettings(str(model), str(lora or ""), template, context, exact)) as url:
        yield Llama(url)
