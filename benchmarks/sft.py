"""Supervised fine-tuning against stock ``mlx_lm.lora``: the same rows, model and adapter, each side in a process of its own.

    python benchmarks/sft.py [--json] [--data FILE] [--rows 64] [--stock-iters 1]

``FILE`` holds {prompt, completion} rows; without it the sample set is used. *stock* is the peer as a user gets it, *same kernels* is
the peer's code given mlxtune's dequantised weights and BLAS. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, call, heading, where

from mlxtune.data.rows import Conversation
from mlxtune.data.source import read_file
from mlxtune.models import bundled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--data", type=Path, default=HERE.parent / "data" / "samples" / "support.jsonl")
    parser.add_argument("--rows", type=int, default=64, help="rows of it; the peer drops what does not fill a batch of 4")
    parser.add_argument(
        "--stock-iters", type=int, default=1, help="iterations of the stock peer, minutes each off Metal; 0 skips it"
    )
    asked = parser.parse_args()
    rows = pairs(asked.data)[: asked.rows // 4 * 4]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = measure(file, len(rows), asked.stock_iters)
    result = {
        **where("mlx-lm"),
        "data": {"file": asked.data.name, "rows": len(rows)},
        **found,
        "ratio": ratios(found),
    }
    print(json.dumps(result, indent=2) if asked.json else table(result))


def pairs(file: Path) -> list[dict[str, str]]:
    """The first question and last answer of each row as the peer's prompt and completion."""
    found = []
    for row in read_file(file):
        if isinstance(row, Conversation):
            found.append({"prompt": "\n\n".join(message.content for message in row.prompt), "completion": row.reference})
    return found


def measure(file: Path, rows: int, stock_iters: int) -> dict[str, Any]:
    """Every part in turn, never two at once."""
    model = ["--model", str(bundled.ensure()), "--train", str(file)]
    found: dict[str, Any] = {
        "own": call("own_sft.py", *model),
        "same_kernels": call("peer_sft.py", *model, "--iters", str(rows // 4), "--same-kernels", told="with the same kernels"),
    }
    for name in ("cross_entropy", "checkpointing"):
        found[name] = {which: call("kernels.py", f"{name}/{which}", told=f"{name}/{which}") for which in ("own", "plain")}
    found["share"] = call("kernels.py", "share", told="share")
    if stock_iters:
        found["stock"] = call("peer_sft.py", *model, "--iters", str(stock_iters), told="stock")
    return found


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Ours to theirs: above 1 is faster; for memory, below 1 is smaller."""
    own, peer = found["own"], found["same_kernels"]
    entropy, checkpointing = found["cross_entropy"], found["checkpointing"]
    made = {
        "first epoch / same kernels": own["first"]["trained_per_s"] / peer["trained_per_s"],
        "later epochs / same kernels": own["later"]["trained_per_s"] / peer["trained_per_s"],
        "peak memory / same kernels": own["peak"] / peer["peak"],
        "cross-entropy speed / plain": entropy["plain"]["seconds"] / entropy["own"]["seconds"],
        "cross-entropy memory: plain / own": entropy["plain"]["extra"] / entropy["own"]["extra"],
        "checkpointed speed / plain": checkpointing["plain"]["seconds"] / checkpointing["own"]["seconds"],
        "checkpointed memory: plain / own": checkpointing["plain"]["peak"] / checkpointing["own"]["peak"],
        "step / matrix-product speed": found["share"]["share"],
    }
    if "stock" in found:
        made["first epoch / stock"] = own["first"]["trained_per_s"] / found["stock"]["trained_per_s"]
    return made


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
    own, peer = result["own"], result["same_kernels"]
    lines = [
        heading(result),
        "",
        f"{'':<34}{'trained tokens/s':>18}{'peak GB':>10}",
        f"{'mlxtune, first epoch':<34}{own['first']['trained_per_s']:>18.1f}{own['peak'] / 1e9:>10.2f}",
        f"{'mlxtune, later epochs':<34}{own['later']['trained_per_s']:>18.1f}",
        f"{'mlx_lm.lora, same kernels':<34}{peer['trained_per_s']:>18.1f}{peer['peak'] / 1e9:>10.2f}",
    ]
    if "stock" in result:
        stock = result["stock"]
        lines.append(f"{'mlx_lm.lora, stock':<34}{stock['trained_per_s']:>18.2f}{stock['peak'] / 1e9:>10.2f}")
    return "\n".join([*lines, "", *(f"{name:<36}{value:>8.2f}" for name, value in result["ratio"].items())])


if __name__ == "__main__":
    main()
