"""Preference training against ``mlx_lm_lora``'s DPO: the same pairs, model and adapter, each side in its own process.

    pip install --no-deps mlx-lm-lora
    python benchmarks/dpo.py [--json] [--data FILE] [--rows 24] [--stock-iters 1]

``FILE`` contains preference rows; the default is the sample set. Only pairs that fit the peer's window of 512 tokens are used,
because the peer truncates prompts. *stock* is the peer as installed, *same kernels* is the peer's code with mlxtune's dequantized
weights and BLAS. *long prompt* uses pairs with a prompt of 384 tokens and completions of 64. Our time includes the reference pass
in the first epoch. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import json
import string
import tempfile
from pathlib import Path
from typing import Any

from common import FOLDER, call, environment, heading
from mlx_lm.utils import load_tokenizer

from mlxtune.core.errors import DataError
from mlxtune.data.rows import Message, Preference
from mlxtune.data.source import read_file
from mlxtune.models import bundled
from mlxtune.models.bundled import install
from mlxtune.models.template import ChatTemplate

WINDOW = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--data", type=Path, default=FOLDER.parent / "data" / "samples" / "support-pairs.jsonl")
    parser.add_argument("--rows", type=int, default=24, help="number of pairs")
    parser.add_argument(
        "--stock-iters", type=int, default=1, help="pairs of the stock peer; each takes minutes without Metal; 0 skips it"
    )
    options = parser.parse_args()
    folder = install.ensure(bundled.DEFAULT)
    template = ChatTemplate(load_tokenizer(folder))
    rows = supported_pairs(options.data, template, options.rows)
    with tempfile.TemporaryDirectory() as scratch:
        pairs, long = Path(scratch) / "pairs.jsonl", Path(scratch) / "long.jsonl"
        for file, records in ((pairs, rows), (long, long_prompts(template, 12))):
            file.write_text("".join(json.dumps(row) + "\n" for row in records))
        measurements = measure(str(folder), pairs, long, len(rows), options.stock_iters)
    result = {
        **environment("mlx-lm", "mlx-lm-lora"),
        "data": {"file": options.data.name, "rows": len(rows)},
        **measurements,
        "ratio": ratios(measurements),
    }
    print(json.dumps(result, indent=2) if options.json else table(result))


def supported_pairs(file: Path, template: ChatTemplate, count: int) -> list[dict[str, str]]:
    """Return the first ``count`` pairs that the peer supports: one question, both answers within its window."""
    supported = []
    for row in read_file(file):
        if not isinstance(row, Preference) or any(message.role not in ("system", "user") for message in row.prompt):
            continue
        question = "\n\n".join(message.content for message in row.prompt)
        example = Preference(row.location, {}, (Message("user", question),), row.chosen, row.rejected)
        try:
            pair = template.encode_pair(example, 100_000)
        except DataError:
            continue
        if len(pair.prompt) + max(pair.full_lengths) <= WINDOW:
            supported.append({"prompt": question, "chosen": row.chosen, "rejected": row.rejected})
    return supported[:count]


def long_prompts(template: ChatTemplate, count: int) -> list[dict[str, str]]:
    """Return pairs with prompts of 384 tokens (with template) and completions of 64 (with stop token), without common prefixes."""
    frame = len(template.prompt([Message("user", "")]))
    return [
        {"prompt": f" {name}" + " tree" * (383 - frame), "chosen": " yes" * 62 + f" {name}", "rejected": " no" * 62 + f" {name}"}
        for name in string.ascii_lowercase[:count]
    ]


def measure(model: str, pairs: Path, long: Path, rows: int, stock_iters: int) -> dict[str, Any]:
    """Run every part, one at a time."""
    measurements: dict[str, Any] = {}
    for name, file, count in (("pairs", pairs, rows), ("long_prompt", long, 6)):
        arguments = ["--model", model, "--train", str(file)]
        measurements[name] = {
            "own": call("own_sft.py", *arguments, "--method", "dpo", note=name),
            "same_kernels": call(
                "peer_dpo.py", *arguments, "--iters", str(count), "--same-kernels", note=f"{name}, with the same kernels"
            ),
        }
    if stock_iters:
        measurements["stock"] = call(
            "peer_dpo.py", "--model", model, "--train", str(pairs), "--iters", str(stock_iters), note="stock"
        )
    return measurements


def ratios(measurements: dict[str, Any]) -> dict[str, float]:
    """Return ratios of mlxtune to the peer: above 1 is faster; for memory, below 1 is smaller."""
    speedups: dict[str, float] = {}
    for name, parts in ((name, measurements[name]) for name in ("pairs", "long_prompt")):
        own, peer = parts["own"], parts["same_kernels"]
        speedups |= {
            f"{name}: first epoch / same kernels": own["first"]["rows_per_s"] / peer["rows_per_s"],
            f"{name}: later epochs / same kernels": own["later"]["rows_per_s"] / peer["rows_per_s"],
            f"{name}: peak memory / same kernels": own["peak"] / peer["peak"],
        }
    if "stock" in measurements:
        speedups["pairs: first epoch / stock"] = (
            measurements["pairs"]["own"]["first"]["rows_per_s"] / measurements["stock"]["rows_per_s"]
        )
    return speedups


def table(result: dict[str, Any]) -> str:
    """Print the result as text."""
    lines = [heading(result), "", f"{'':<44}{'pairs/s':>10}{'peak GB':>10}"]
    for name in ("pairs", "long_prompt"):
        own, peer = result[name]["own"], result[name]["same_kernels"]
        lines += [
            f"{f'{name}: mlxtune, first epoch and reference':<44}{own['first']['rows_per_s']:>10.3f}{own['peak'] / 1e9:>10.2f}",
            f"{f'{name}: mlxtune, later epochs':<44}{own['later']['rows_per_s']:>10.3f}",
            f"{f'{name}: mlx_lm_lora, same kernels':<44}{peer['rows_per_s']:>10.3f}{peer['peak'] / 1e9:>10.2f}",
        ]
    if "stock" in result:
        stock = result["stock"]
        lines.append(f"{'pairs: mlx_lm_lora, stock':<44}{stock['rows_per_s']:>10.4f}{stock['peak'] / 1e9:>10.2f}")
    return "\n".join([*lines, "", *(f"{name:<44}{value:>8.2f}" for name, value in result["ratio"].items())])


if __name__ == "__main__":
    main()
