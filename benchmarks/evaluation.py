"""Answers for an evaluation against mlx_lm: the same prompts with a shared system prompt, each side in a process of its own.

    python benchmarks/evaluation.py [--json] [--data FILE] [--system 200] [--rows 32] [--loop-rows 8] [--max-tokens 24]

``FILE`` holds conversations; without it short reviews to be classified are asked. Their system prompt is said again and again until
it has ``--system`` tokens; 0 leaves it as it is. *loop* is
``mlx_lm.generate``, a prompt at a time, on the first of the prompts; *batch* is ``mlx_lm.batch_generate``. Both are given mlxtune's
dequantised weights and BLAS. Every answer has the same length, so that all sides do the same work, and their texts are compared.
Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, call, heading, where
from mlx_lm.utils import load_tokenizer

from mlxtune.data.rows import Conversation
from mlxtune.data.source import read_file
from mlxtune.models import bundled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--data", type=Path, default=HERE.parent / "data" / "samples" / "reviews.jsonl")
    parser.add_argument("--system", type=int, default=200, help="tokens of the shared system prompt; 0: as it is in the data")
    parser.add_argument("--rows", type=int, default=32, help="prompts of the batched sides")
    parser.add_argument("--loop-rows", type=int, default=8, help="prompts of the loop, seconds each off Metal")
    parser.add_argument("--max-tokens", type=int, default=24, help="tokens of every answer")
    asked = parser.parse_args()
    asks = [
        [message.as_dict() for message in row.prompt] for row in read_file(asked.data) if isinstance(row, Conversation)
    ]  # fmt: skip
    asks = with_system(asks[: asked.rows], asked.system)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "asks.jsonl"
        file.write_text("".join(json.dumps(ask) + "\n" for ask in asks))
        given = ["--model", str(bundled.ensure()), "--asks", str(file), "--max-tokens", str(asked.max_tokens)]
        found = {
            "own": call("own_evaluation.py", *given),
            "batch": call("peer_evaluation.py", *given, "--how", "batch", told="batch_generate, same kernels"),
            "loop": call(
                "peer_evaluation.py", *given, "--how", "loop", "--rows", str(asked.loop_rows), told="generate, same kernels"
            ),
        }
    texts = {name: part.pop("texts") for name, part in found.items()}
    result = {
        **where("mlx-lm"),
        "data": {"file": asked.data.name, "rows": len(asks), "system": asked.system},
        **found,
        "same_texts": {name: _same(texts["own"], texts[name]) for name in ("loop", "batch")},
        "ratio": {
            f"prompts/s / {name}": found["own"]["prompts_per_s"] / found[name]["prompts_per_s"] for name in ("loop", "batch")
        },
    }
    print(json.dumps(result, indent=2) if asked.json else table(result))


def with_system(asks: list[list[dict[str, Any]]], tokens: int) -> list[list[dict[str, Any]]]:
    """``asks`` behind one system turn of ``tokens`` tokens, made of that of the first."""
    if not tokens:
        return asks
    tokenizer = load_tokenizer(bundled.ensure())
    said = tokenizer.encode(f"{asks[0][0]['content']} ")
    text = tokenizer.decode((said * (tokens // len(said) + 1))[:tokens])
    return [[{"role": "system", "content": text}, *(turn for turn in ask if turn["role"] != "system")] for ask in asks]


def _same(own: list[str], peer: list[str]) -> str:
    """How many of the peer's texts ours equal."""
    return f"{sum(one == other for one, other in zip(own, peer, strict=False))} of {len(peer)}"


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
    names = {"own": "mlxtune", "batch": "mlx_lm.batch_generate, same kernels", "loop": "mlx_lm.generate loop, same kernels"}
    lines = [heading(result), "", f"{'':<40}{'prompts/s':>10}{'peak GB':>10}{'same texts':>14}"]
    for name, shown in names.items():
        part = result[name]
        same = result["same_texts"].get(name, "")
        lines.append(f"{shown:<40}{part['prompts_per_s']:>10.2f}{part['peak'] / 1e9:>10.2f}{same:>14}")
    return "\n".join([*lines, "", *(f"{name:<40}{value:>10.2f}" for name, value in result["ratio"].items())])


if __name__ == "__main__":
    main()
