"""The peer of evaluation.py: mlx_lm's own generation on the same prompts, with mlxtune's kernels; prints one JSON document.

Runs in a process of its own, with what mlxtune computes with off Metal: the weights dequantised to float32 and the fast BLAS.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from mlxtune.models import blas


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--asks", type=Path, required=True, help="lines of messages")
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--how", choices=("loop", "batch"), required=True)
    parser.add_argument("--rows", type=int, default=None, help="only the first so many")
    asked = parser.parse_args()
    blas.preload()
    print(json.dumps(run(asked)))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Answers of ``max_tokens`` tokens each, no token a stop: what a user's evaluation script calls."""
    import mlx.core as mx
    import mlx_lm
    from mlx_lm import batch_generate, generate, load
    from mlx_lm.utils import dequantize_model

    model, tokenizer = load(asked.model)
    if mx.default_device().type == mx.DeviceType.cpu:
        model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
        model = dequantize_model(model)
    mx.eval(model.parameters())
    tokenizer._eos_token_ids = set()
    asks = [json.loads(line) for line in asked.asks.read_text().splitlines()][: asked.rows]
    prompts = [tokenizer.apply_chat_template(ask, add_generation_prompt=True, return_dict=False) for ask in asks]
    mx.reset_peak_memory()
    start = time.perf_counter()
    if asked.how == "loop":
        texts = [generate(model, tokenizer, prompt, max_tokens=asked.max_tokens) for prompt in prompts]
    else:
        texts = batch_generate(model, tokenizer, prompts, max_tokens=asked.max_tokens).texts
    seconds = time.perf_counter() - start
    return {
        "version": mlx_lm.__version__, "prompts": len(prompts), "prompt_tokens": sum(map(len, prompts)),
        "max_tokens": asked.max_tokens, "seconds": seconds, "prompts_per_s": len(prompts) / seconds,
        "peak": mx.get_peak_memory(), "texts": texts,
    }  # fmt: skip


if __name__ == "__main__":
    main()
