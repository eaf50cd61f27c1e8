"""llama.cpp itself, in this process, from the package xllamacpp."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONTEXT = 512


class Llama:
    """A llama.cpp server with one model. It computes attention in float32."""

    def __init__(self, model: Path, lora: Path | None = None, context: int = CONTEXT) -> None:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_parallel, settings.port = str(model), context, 1, 0
        settings.n_gpu_layers, settings.warmup, settings.fit_params, settings.verbosity = 0, False, False, -1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if lora:
            settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
        self._server: Any = xllamacpp.Server(settings)
        self.url: str = self._server.listening_address

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
def llama(model: Path, lora: Path | None = None, context: int = CONTEXT) -> Iterator[Llama]:
    """Run a server with the GGUF file ``model``, and the adapter ``lora`` if given."""
    server = Llama(model, lora, context)
    try:
        yield server
    finally:
        del server._server
