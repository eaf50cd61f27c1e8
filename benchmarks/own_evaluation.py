"""The other side of evaluation.py: mlxtune's batched answers to the same prompts, in a process of its own; prints one JSON document."""

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
    asked = parser.parse_args()
    blas.preload()
    print(json.dumps(run(asked)))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Answers of ``max_tokens`` tokens each, no token a stop; the shared prefix is part of the time."""
    import mlx.core as mx

    from mlxtune.data.rows import Message
    from mlxtune.models.generate import generate
    from mlxtune.models.load import load
    from mlxtune.models.resolve import resolve
    from mlxtune.models.template import ChatTemplate

    loaded = load(resolve(asked.model))
    template = ChatTemplate(loaded.tokenizer)
    asks = [json.loads(line) for line in asked.asks.read_text().splitlines()]
    prompts = [template.prompt([Message(**turn) for turn in ask]) for ask in asks]
    mx.reset_peak_memory()
    start = time.perf_counter()
    told = generate(
        loaded.model, loaded.tokenizer, prompts, max_tokens=asked.max_tokens, stops=frozenset(), batch_size=len(prompts)
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return {
        "prompts": len(prompts), "prompt_tokens": sum(map(len, prompts)), "max_tokens": asked.max_tokens, "seconds": seconds,
        "prompts_per_s": len(prompts) / seconds, "peak": mx.get_peak_memory(), "texts": [text for text, _ in told],
    }  # fmt: skip


if __name__ == "__main__":
    main()
