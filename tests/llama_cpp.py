"""llama.cpp itself, from the package xllamacpp, in a process of its own: it aborts on what it cannot compute."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    command = [sys.executable, __file__, str(model), str(lora or ""), str(context), template, "exact" if exact else ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http"), process.stderr.read()[-2000:]
            yield Llama(url)
        finally:
            process.kill()


def _serve(model: str, lora: str, context: str, template: str, exact: str) -> None:
    """Serve ``model`` until the standard input closes."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.port = model, int(context), 1, 0
    settings.n_gpu_layers, settings.warmup, settings.fit_params, settings.verbosity = 0, False, False, -1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.endpoint_props, settings.chat_template = True, template
    if exact:
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if lora:
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
