"""Our side of evaluation.py: mlxtune's batched answers to the same prompts. Prints a JSON document."""

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
    options = parser.parse_args()
    blas.preload()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure answers of ``max_tokens`` tokens without stop tokens, including the shared prefix."""
    import mlx.core as mx

    from mlxtune.data.rows import Message
    from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
    from mlxtune.models.load import load
    from mlxtune.models.resolve import resolve
    from mlxtune.models.template import ChatTemplate

    loaded = load(resolve(options.model))
    template = ChatTemplate(loaded.tokenizer)
    conversations = [json.loads(line) for line in options.prompts.read_text().splitlines()]
    prompts = [template.prompt([Message(**turn) for turn in messages]) for messages in conversations]
    mx.reset_peak_memory()
    start = time.perf_counter()
    settings = GenerationSettings(max_tokens=options.max_tokens, stops=frozenset(), batch_size=len(prompts))
    outputs = generate(loaded.model, loaded.tokenizer, [PromptGroup(prompts, settings)])
    seconds = time.perf_counter() - start
    return {
        "prompts": len(prompts), "prompt_tokens": sum(map(len, prompts)), "max_tokens": options.max_tokens, "seconds": seconds,
        "prompts_per_s": len(prompts) / seconds, "peak": mx.get_peak_memory(), "texts": [output.text for output in outputs],
    }  # fmt: skip


if __name__ == "__main__":
    main()
