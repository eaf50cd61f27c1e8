"""The other side of sft.py: mlxtune's loop on the same rows, two epochs, in a process of its own; prints one JSON document."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from mlxtune.models import blas


class Listener:
    """Keeps the steps with the time at which each was done."""

    stopping = False

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def emit(self, type: str, **fields: Any) -> None:
        if type == "step":
            self.steps.append(fields | {"at": time.perf_counter()})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", required=True, help="rows of {prompt, completion}")
    parser.add_argument("--set", action="append", default=[], help="more keys of the recipe")
    asked = parser.parse_args()
    blas.preload()
    print(json.dumps(run(asked)))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Two epochs at the peer's settings: batch 4, rank 8, scale 20, the last 16 layers, Adam at 1e-5."""
    import mlx.core as mx

    from mlxtune.recipe import parse
    from mlxtune.training.assemble import assemble

    folder = Path(tempfile.mkdtemp())
    recipe = parse(
        f'name = "bench"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "{asked.train}"\nholdout = 0.0\nvalidation = 0.0\n'
        "max_tokens = 512\n[adapter]\nrank = 8\nalpha = 160\nlayers = 16\n[training]\nepochs = 2\nbatch_size = 4\n"
        'learning_rate = 1e-5\nschedule = "constant"\nwarmup = 0.0\nclip = 0.0\nvalidate_every = 1000000\nsave_every = 1000000\n',
        overrides=asked.set,
    )
    listener = Listener()
    loop = assemble(recipe, folder, warn=lambda text: None, emit=listener.emit).loop
    mx.reset_peak_memory()
    start = time.perf_counter()
    loop.run(listener)
    steps = listener.steps
    half = sum(step["epoch"] == 0 for step in steps)

    def facts(some: list[dict[str, Any]], since: float) -> dict[str, Any]:
        trained, taken = sum(step["tokens"] for step in some), some[-1]["at"] - since
        return {"steps": len(some), "seconds": taken, "trained": trained, "trained_per_s": trained / taken}

    real = sum(len(row.tokens) - 1 for row in loop.train)
    return {
        "first": facts(steps[:half], start), "later": facts(steps[half:], steps[half - 1]["at"]),
        "computed_per_real": sum(step["computed"] for step in steps[:half]) / real, "peak": mx.get_peak_memory(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
