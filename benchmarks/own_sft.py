"""The other side of sft.py and dpo.py: mlxtune's loop on the same rows, two epochs, in a process of its own; prints one JSON document."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlxtune.models import blas

METHODS = {  # the peers' defaults
    "sft": "batch_size = 4\n[adapter]\nalpha = 160",
    "dpo": 'batch_size = 1\n[method]\nkind = "dpo"\n[adapter]\nalpha = 80',
}


class Listener:
    """Keeps the steps with the time at which each was done, and when the reference model began and ended."""

    stopping = False

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.referred: list[float] = []

    def emit(self, type: str, **fields: Any) -> None:
        import mlx.core as mx

        if type == "step":
            self.steps.append(fields | {"at": time.perf_counter()})
        if type == "reference":
            self.referred.append(time.perf_counter())
        if type == "model.loaded":
            mx.reset_peak_memory()

    def warn(self, text: str) -> None:
        print(text, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, help="rows of {prompt, completion} or {prompt, chosen, rejected}")
    parser.add_argument("--method", choices=METHODS, default="sft")
    parser.add_argument("--set", action="append", default=[], help="more keys of the recipe")
    asked = parser.parse_args()
    blas.preload()
    print(json.dumps(run(asked)))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Two epochs at the peer's settings: rank 8, the last 16 layers, Adam at 1e-5. The reference model's time is the first epoch's."""
    import mlx.core as mx

    from mlxtune.recipe import parse
    from mlxtune.training.assemble import assemble

    folder = Path(tempfile.mkdtemp())
    os.environ["MLXTUNE_HOME"] = str(folder)  # so that no reference is known from before
    recipe = parse(
        f'name = "bench"\n[model]\nbase = "{asked.model}"\n[data]\nsource = "{asked.train}"\nholdout = 0.0\nvalidation = 0.0\n'
        'max_tokens = 512\ntoo_long = "skip"\n[training]\nepochs = 2\nlearning_rate = 1e-5\nschedule = "constant"\nwarmup = 0.0\n'
        f"clip = 0.0\nvalidate_every = 1000000\nsave_every = 1000000\n{METHODS[asked.method]}\nrank = 8\nlayers = 16\n",
        overrides=asked.set,
    )
    listener = Listener()
    loop = assemble(recipe, folder, listener).loop
    start = time.perf_counter()
    loop.run(listener)
    reference = listener.referred[-1] - listener.referred[0] if listener.referred else 0.0
    steps = listener.steps
    half = sum(step["epoch"] == 0 for step in steps)

    def facts(some: list[dict[str, Any]], since: float) -> dict[str, Any]:
        trained, taken = sum(step["tokens"] for step in some), some[-1]["at"] - since
        return {
            "steps": len(some), "seconds": taken, "trained": trained, "trained_per_s": trained / taken,
            "rows_per_s": len(loop.train) / taken,
        }  # fmt: skip

    real = sum(len(row.tokens) - 1 for row in loop.train)
    return {
        "first": facts(steps[:half], start - reference), "later": facts(steps[half:], steps[half - 1]["at"]),
        "reference_seconds": reference, "rows": len(loop.train), "loss": [step["loss"] for step in steps[:4]],
        "computed_per_real": sum(step["computed"] for step in steps[:half]) / real, "peak": mx.get_peak_memory(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
