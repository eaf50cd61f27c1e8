"""Supervised fine-tuning against ``mlx_lm.lora``: the same rows, model and adapter, each side in its own process.

    python benchmarks/sft.py [--json] [--data FILE] [--rows 64] [--stock-iters 1]

``FILE`` contains {prompt, completion} rows; the default is the sample set. *stock* is the peer as installed, *same kernels* is the
peer's code with mlxtune's dequantized weights and BLAS. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import FOLDER, call, environment, heading

from mlxtune.data.rows import Conversation
from mlxtune.data.source import read_file
from mlxtune.models import bundled
from mlxtune.models.bundled import install


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--data", type=Path, default=FOLDER.parent / "data" / "samples" / "support.jsonl")
    parser.add_argument("--rows", type=int, default=64, help="number of rows, rounded down to full batches of 4")
    parser.add_argument(
        "--stock-iters", type=int, default=1, help="iterations of the stock peer; each takes minutes without Metal; 0 skips it"
    )
    options = parser.parse_args()
    rows = pairs(options.data)[: options.rows // 4 * 4]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        measurements = measure(file, len(rows), options.stock_iters)
    result = {
        **environment("mlx-lm"),
        "data": {"file": options.data.name, "rows": len(rows)},
        **measurements,
        "ratio": ratios(measurements),
    }
    print(json.dumps(result, indent=2) if options.json else table(result))


def pairs(file: Path) -> list[dict[str, str]]:
    """Return the first question and last answer of each row as the peer's prompt and completion."""
    rows = []
    for row in read_file(file):
        if isinstance(row, Conversation):
            rows.append({"prompt": "\n\n".join(message.content for message in row.prompt), "completion": row.reference})
    return rows


def measure(file: Path, rows: int, stock_iters: int) -> dict[str, Any]:
    """Run every part, one at a time."""
    model = ["--model", str(install.ensure(bundled.DEFAULT)), "--train", str(file)]
    measurements: dict[str, Any] = {
        "own": call("own_sft.py", *model),
        "same_kernels": call("peer_sft.py", *model, "--iters", str(rows // 4), "--same-kernels", note="with the same kernels"),
    }
    for name in ("cross_entropy", "checkpointing"):
        measurements[name] = {
            variant: call("kernels.py", f"{name}/{variant}", note=f"{name}/{variant}") for variant in ("own", "plain")
        }
    measurements["utilization"] = call("kernels.py", "utilization", note="utilization")
    if stock_iters:
        measurements["stock"] = call("peer_sft.py", *model, "--iters", str(stock_iters), note="stock")
    return measurements


def ratios(measurements: dict[str, Any]) -> dict[str, float]:
    """Return ratios of mlxtune to the peer: above 1 is faster; for memory, below 1 is smaller."""
    own, peer = measurements["own"], measurements["same_kernels"]
    entropy, checkpointing = measurements["cross_entropy"], measurements["checkpointing"]
    speedups = {
        "first epoch / same kernels": own["first"]["trained_per_s"] / peer["trained_per_s"],
        "later epochs / same kernels": own["later"]["trained_per_s"] / peer["trained_per_s"],
        "peak memory / same kernels": own["peak"] / peer["peak"],
        "cross-entropy speed / plain": entropy["plain"]["seconds"] / entropy["own"]["seconds"],
        "cross-entropy memory: plain / own": entropy["plain"]["extra"] / entropy["own"]["extra"],
        "checkpointed speed / plain": checkpointing["plain"]["seconds"] / checkpointing["own"]["seconds"],
        "checkpointed memory: plain / own": checkpointing["plain"]["peak"] / checkpointing["own"]["peak"],
        "step / matmul speed": measurements["utilization"]["utilization"],
    }
    if "stock" in measurements:
        speedups["first epoch / stock"] = own["first"]["trained_per_s"] / measurements["stock"]["trained_per_s"]
    return speedups


def table(result: dict[str, Any]) -> str:
    """Print the result as text."""
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
