"""Evaluation answers against mlx_lm: the same prompts with a shared system prompt, each side in its own process.

    python benchmarks/evaluation.py [--json] [--data FILE] [--system 200] [--rows 32] [--loop-rows 8] [--max-tokens 24]

``FILE`` contains conversations; the default is short reviews to classify. Their system prompt is repeated to ``--system`` tokens; 0
leaves it unchanged. *loop* is ``mlx_lm.generate``, one prompt at a time, on the first prompts; *batch* is
``mlx_lm.batch_generate``. Both use mlxtune's dequantized weights and BLAS. Every answer has the same length, so that all sides do
the same work, and the texts are compared. Progress goes to stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import FOLDER, call, environment, heading, read_prompts
from mlx_lm.utils import load_tokenizer

from mlxtune.models import bundled
from mlxtune.models.bundled import install


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--data", type=Path, default=FOLDER.parent / "data" / "samples" / "reviews.jsonl")
    parser.add_argument("--system", type=int, default=200, help="tokens of the shared system prompt; 0 leaves it unchanged")
    parser.add_argument("--rows", type=int, default=32, help="prompts of mlxtune and batch_generate")
    parser.add_argument("--loop-rows", type=int, default=8, help="prompts of the loop; each takes seconds without Metal")
    parser.add_argument("--max-tokens", type=int, default=24, help="tokens of every answer")
    options = parser.parse_args()
    conversations = with_system(read_prompts(options.data, options.rows), options.system)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("".join(json.dumps(messages) + "\n" for messages in conversations))
        arguments = [
            "--model",
            str(install.ensure(bundled.DEFAULT)),
            "--prompts",
            str(file),
            "--max-tokens",
            str(options.max_tokens),
        ]
        measurements = {
            "own": call("own_evaluation.py", *arguments),
            "batch": call("peer_evaluation.py", *arguments, "--mode", "batch", note="batch_generate, same kernels"),
            "loop": call(
                "peer_evaluation.py", *arguments, "--mode", "loop", "--rows", str(options.loop_rows), note="generate, same kernels"
            ),
        }
    texts = {name: part.pop("texts") for name, part in measurements.items()}
    result = {
        **environment("mlx-lm"),
        "data": {"file": options.data.name, "rows": len(conversations), "system": options.system},
        **measurements,
        "equal_texts": {name: _same(texts["own"], texts[name]) for name in ("loop", "batch")},
        "ratio": {
            f"prompts/s / {name}": measurements["own"]["prompts_per_s"] / measurements[name]["prompts_per_s"]
            for name in ("loop", "batch")
        },
    }
    print(json.dumps(result, indent=2) if options.json else table(result))


def with_system(conversations: list[list[dict[str, Any]]], tokens: int) -> list[list[dict[str, Any]]]:
    """Return ``conversations`` with one system turn of ``tokens`` tokens, made from that of the first."""
    if not tokens:
        return conversations
    tokenizer = load_tokenizer(install.ensure(bundled.DEFAULT))
    repeated = tokenizer.encode(f"{conversations[0][0]['content']} ")
    text = tokenizer.decode((repeated * (tokens // len(repeated) + 1))[:tokens])
    return [
        [{"role": "system", "content": text}, *(turn for turn in messages if turn["role"] != "system")]
        for messages in conversations
    ]


def _same(own: list[str], peer: list[str]) -> str:
    """Count texts that are equal on both sides."""
    return f"{sum(first == second for first, second in zip(own, peer, strict=False))} of {len(peer)}"


def table(result: dict[str, Any]) -> str:
    """Print the result as text."""
    names = {"own": "mlxtune", "batch": "mlx_lm.batch_generate, same kernels", "loop": "mlx_lm.generate loop, same kernels"}
    lines = [heading(result), "", f"{'':<40}{'prompts/s':>10}{'peak GB':>10}{'equal texts':>14}"]
    for name, label in names.items():
        part = result[name]
        equal = result["equal_texts"].get(name, "")
        lines.append(f"{label:<40}{part['prompts_per_s']:>10.2f}{part['peak'] / 1e9:>10.2f}{equal:>14}")
    return "\n".join([*lines, "", *(f"{name:<40}{value:>10.2f}" for name, value in result["ratio"].items())])


if __name__ == "__main__":
    main()
