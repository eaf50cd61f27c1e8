"""The peer of evaluation.py: mlx_lm's own generation on the same prompts, with mlxtune's kernels. Prints a JSON document.

Runs in its own process with what mlxtune uses on a CPU: weights dequantized to float32 and a fast BLAS.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from mlxtune.models.cpu import blas


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="lines of messages")
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--mode", choices=("loop", "batch"), required=True)
    parser.add_argument("--rows", type=int, default=None, help="number of prompts; default: all")
    options = parser.parse_args()
    blas.preload()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure answers of ``max_tokens`` tokens without stop tokens, as an evaluation script would generate them."""
    import mlx.core as mx
    import mlx_lm
    from mlx_lm import batch_generate, generate, load
    from mlx_lm.utils import dequantize_model

    model, tokenizer = load(options.model)
    if mx.default_device().type == mx.DeviceType.cpu:
        model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
        model = dequantize_model(model)
    mx.eval(model.parameters())
    tokenizer._eos_token_ids = set()
    conversations = [json.loads(line) for line in options.prompts.read_text().splitlines()][: options.rows]
    prompts = [tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) for messages in conversations]
    mx.reset_peak_memory()
    start = time.perf_counter()
    if options.mode == "loop":
        texts = [generate(model, tokenizer, prompt, max_tokens=options.max_tokens) for prompt in prompts]
    else:
        texts = batch_generate(model, tokenizer, prompts, max_tokens=options.max_tokens).texts
    seconds = time.perf_counter() - start
    return {
        "version": mlx_lm.__version__, "prompts": len(prompts), "prompt_tokens": sum(map(len, prompts)),
        "max_tokens": options.max_tokens, "seconds": seconds, "prompts_per_s": len(prompts) / seconds,
        "peak": mx.get_peak_memory(), "texts": texts,
    }  # fmt: skip


if __name__ == "__main__":
    main()
