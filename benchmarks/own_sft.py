"""mlxtune's side of sft.py and dpo.py: two epochs on the same rows. Prints a JSON document."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlxtune.models.cpu import blas

METHODS = {  # the peers' defaults
    "sft": "batch_size = 4\n[adapter]\nalpha = 160",
    "dpo": 'batch_size = 1\n[method]\nkind = "dpo"\n[adapter]\nalpha = 80',
}


class Listener:
    """Records each step with its time, and start and end of the reference pass."""

    stopping = False

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.reference_times: list[float] = []

    def emit(self, type: str, **fields: Any) -> None:
        import mlx.core as mx

        if type == "step":
            self.steps.append(fields | {"at": time.perf_counter()})
        if type == "reference":
            self.reference_times.append(time.perf_counter())
        if type == "model.loaded":
            mx.reset_peak_memory()

    def warn(self, text: str) -> None:
        print(text, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, help="rows of {prompt, completion} or {prompt, chosen, rejected}")
    parser.add_argument("--method", choices=METHODS, default="sft")
    parser.add_argument("--set", action="append", default=[], help="recipe settings, key=value")
    options = parser.parse_args()
    blas.preload()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train two epochs with the peer's settings: rank 8, the last 16 layers, Adam at 1e-5. Reference time counts in the first epoch."""
    import mlx.core as mx

    from mlxtune.recipe import parse
    from mlxtune.training.setup import prepare

    folder = Path(tempfile.mkdtemp())
    os.environ["MLXTUNE_HOME"] = str(folder)  # without cached reference log-probabilities
    recipe = parse(
        f'name = "bench"\n[model]\nbase = "{options.model}"\n[data]\nsource = "{options.train}"\nholdout = 0.0\nvalidation = 0.0\n'
        'max_tokens = 512\ntoo_long = "skip"\n[training]\nepochs = 2\nlearning_rate = 1e-5\nschedule = "constant"\nwarmup = 0.0\n'
        f"clip = 0.0\nvalidate_every = 1000000\nsave_every = 1000000\n{METHODS[options.method]}\nrank = 8\nlayers = 16\n",
        overrides=options.set,
    )
    listener = Listener()
    loop = prepare(recipe, folder, listener).loop
    start = time.perf_counter()
    loop.run(listener)
    reference = listener.reference_times[-1] - listener.reference_times[0] if listener.reference_times else 0.0
    steps = listener.steps
    half = sum(step["epoch"] == 0 for step in steps)

    def summarize(steps_of_epoch: list[dict[str, Any]], since: float) -> dict[str, Any]:
        trained, seconds = sum(step["tokens"] for step in steps_of_epoch), steps_of_epoch[-1]["at"] - since
        return {
            "steps": len(steps_of_epoch), "seconds": seconds, "trained": trained, "trained_per_s": trained / seconds,
            "rows_per_s": len(loop.train) / seconds,
        }  # fmt: skip

    real = sum(len(row.tokens) - 1 for row in loop.train)
    return {
        "first": summarize(steps[:half], start - reference), "later": summarize(steps[half:], steps[half - 1]["at"]),
        "reference_seconds": reference, "rows": len(loop.train), "loss": [step["loss"] for step in steps[:4]],
        "computed_per_real": sum(step["computed"] for step in steps[:half]) / real, "peak": mx.get_peak_memory(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
