"""Preference training against ``mlx_lm_lora``'s DPO: the same pairs, model and adapter, each side in a process of its own.

    pip install --no-deps mlx-lm-lora
    python benchmarks/dpo.py [--json] [--data FILE] [--rows 24] [--stock-iters 1]

``FILE`` holds preference rows; without it the sample set is used. Only pairs that fit the peer's window of 512 tokens whole are
taken, because the peer cuts prompts. *stock* is the peer as a user gets it, *same kernels* is the peer's code given mlxtune's
dequantised weights and BLAS. *long prompt* is pairs of a prompt of 384 tokens and completions of 64. Ours includes the reference
model's pass in the first epoch. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import json
import string
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, call, heading, where
from mlx_lm.utils import load_tokenizer

from mlxtune.core.errors import DataError
from mlxtune.data.rows import Message, Preference
from mlxtune.data.source import read_file
from mlxtune.models import bundled
from mlxtune.models.template import ChatTemplate

WINDOW = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--data", type=Path, default=HERE.parent / "data" / "samples" / "support-pairs.jsonl")
    parser.add_argument("--rows", type=int, default=24, help="pairs of it")
    parser.add_argument("--stock-iters", type=int, default=1, help="pairs of the stock peer, minutes each off Metal; 0 skips it")
    asked = parser.parse_args()
    folder = bundled.ensure()
    template = ChatTemplate(load_tokenizer(folder))
    rows = whole(asked.data, template, asked.rows)
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / name for name in ("pairs.jsonl", "long.jsonl")]
        for file, some in zip(files, (rows, long_prompts(template, 12)), strict=True):
            file.write_text("".join(json.dumps(row) + "\n" for row in some))
        found = measure(str(folder), *files, len(rows), asked.stock_iters)
    result = {
        **where("mlx-lm", "mlx-lm-lora"),
        "data": {"file": asked.data.name, "rows": len(rows)},
        **found,
        "ratio": ratios(found),
    }
    print(json.dumps(result, indent=2) if asked.json else table(result))


def whole(file: Path, template: ChatTemplate, count: int) -> list[dict[str, str]]:
    """The first ``count`` pairs that the peer can take as they are: one question, both answers within its window."""
    found = []
    for row in read_file(file):
        if not isinstance(row, Preference) or any(message.role not in ("system", "user") for message in row.prompt):
            continue
        asked = "\n\n".join(message.content for message in row.prompt)
        one = Preference(row.place, {}, (Message("user", asked),), row.chosen, row.rejected)
        try:
            pair = template.pair(one, 100_000)
        except DataError:
            continue
        if len(pair.prompt) + max(pair.uncut) <= WINDOW:
            found.append({"prompt": asked, "chosen": row.chosen, "rejected": row.rejected})
    return found[:count]


def long_prompts(template: ChatTemplate, count: int) -> list[dict[str, str]]:
    """Pairs of a prompt of 384 tokens, template included, and completions of 64, stop included; no two prompts begin alike."""
    frame = len(template.prompt([Message("user", "")]))
    return [
        {"prompt": f" {name}" + " tree" * (383 - frame), "chosen": " yes" * 62 + f" {name}", "rejected": " no" * 62 + f" {name}"}
        for name in string.ascii_lowercase[:count]
    ]


def measure(model: str, pairs: Path, long: Path, rows: int, stock_iters: int) -> dict[str, Any]:
    """Every part in turn, never two at once."""
    found: dict[str, Any] = {}
    for name, file, count in (("pairs", pairs, rows), ("long_prompt", long, 6)):
        given = ["--model", model, "--train", str(file)]
        found[name] = {
            "own": call("own_sft.py", *given, "--method", "dpo", told=name),
            "same_kernels": call(
                "peer_dpo.py", *given, "--iters", str(count), "--same-kernels", told=f"{name}, with the same kernels"
            ),
        }
    if stock_iters:
        found["stock"] = call("peer_dpo.py", "--model", model, "--train", str(pairs), "--iters", str(stock_iters), told="stock")
    return found


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Ours to theirs: above 1 is faster; for memory, below 1 is smaller."""
    made = {}
    for name, parts in ((name, found[name]) for name in ("pairs", "long_prompt")):
        own, peer = parts["own"], parts["same_kernels"]
        made |= {
            f"{name}: first epoch / same kernels": own["first"]["rows_per_s"] / peer["rows_per_s"],
            f"{name}: later epochs / same kernels": own["later"]["rows_per_s"] / peer["rows_per_s"],
            f"{name}: peak memory / same kernels": own["peak"] / peer["peak"],
        }
    if "stock" in found:
        made["pairs: first epoch / stock"] = found["pairs"]["own"]["first"]["rows_per_s"] / found["stock"]["rows_per_s"]
    return made


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
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
