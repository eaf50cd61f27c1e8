"""mlxtune's side of native.py: train on the native path, and record time, traces and memory at each step. Prints a JSON document."""

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
from mlxtune.planning.machine import COMPUTE_VARIABLE, footprint


class Recorder:
    """Records wall time, CPU time and memory at each step."""

    stopping = False

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def emit(self, type: str, **fields: Any) -> None:
        import mlx.core as mx

        if type == "step":
            clocks = {"at": time.perf_counter(), "cpu": time.process_time()}
            self.steps.append(fields | clocks | {"footprint": footprint(), "free_buffers": mx.get_cache_memory()})
            if len(self.steps) % 100 == 0:
                print(f"step {len(self.steps)}: {footprint() / 1e6:.0f} MB", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        print(text, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, help="rows of {prompt, completion}")
    parser.add_argument("--shapes", choices=("padded", "any", "off"), required=True, help="compiled with few or any shapes, or not")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--cache-limit", type=int, default=0, help="MiB of free buffers that MLX may keep; 0 keeps its limit")
    options = parser.parse_args()
    os.environ[COMPUTE_VARIABLE] = "native"
    blas.preload()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train with the peer's defaults: batch 4, rank 8, scale 20, 16 layers, Adam at 1e-5."""
    import mlx.core as mx

    from mlxtune.recipe import parse
    from mlxtune.training.setup import prepare
    from mlxtune.training.sft import SFTObjective

    traces = []

    class Counted(SFTObjective):
        def __call__(self, stack: Any, arrays: Any) -> Any:
            traces.append(len(recorder.steps))
            return super().__call__(stack, arrays)

    folder = Path(tempfile.mkdtemp())
    os.environ["MLXTUNE_HOME"] = str(folder)
    recipe = parse(
        f'name = "bench"\n[model]\nbase = "{options.model}"\n[data]\nsource = "{options.train}"\nholdout = 0.0\nvalidation = 0.0\n'
        f'max_tokens = 512\n[training]\nepochs = {options.epochs}\nlearning_rate = 1e-5\nschedule = "constant"\nwarmup = 0.0\n'
        "clip = 0.0\nvalidate_every = 1000000\nsave_every = 1000000\nbatch_size = 4\ngrad_checkpoint = false\n"
        "[adapter]\nrank = 8\nalpha = 160\nlayers = 16\n"
    )
    recorder = Recorder()
    loop = prepare(recipe, folder, recorder).loop
    loop.compiled = options.shapes != "off"
    if options.shapes == "any":
        loop.padded_shapes = {}
    objective: Any = loop.objective
    loop.objective = Counted(objective.prefix, objective.streams)
    if options.cache_limit:
        mx.set_cache_limit(options.cache_limit * 2**20)
    mx.reset_peak_memory()
    loop.run(recorder)
    steps = recorder.steps
    first = sum(step["epoch"] == 0 for step in steps)
    later = steps[first - 1 :] if first < len(steps) else steps
    real = sum(len(row.tokens) - 1 for row in loop.train) * options.epochs
    growth = later[-1]["footprint"] - later[0]["footprint"]
    return {
        "steps": len(steps), "seconds_per_step": (later[-1]["at"] - later[0]["at"]) / (len(later) - 1),
        "cpu_seconds_per_step": (later[-1]["cpu"] - later[0]["cpu"]) / (len(later) - 1),
        "first_epoch_seconds_per_step": (steps[first - 1]["at"] - steps[0]["at"]) / max(1, first - 1),
        "traces": len(traces) if loop.compiled else 0, "traces_after_first_epoch": sum(step >= first for step in traces) if loop.compiled else 0,
        "computed_per_real": sum(step["computed"] for step in steps) / real, "peak": mx.get_peak_memory(),
        "retained": steps[-1]["footprint"] - steps[0]["footprint"], "retained_per_100": growth / (len(later) - 1) * 100,
        "rest": mx.get_active_memory(), "free_buffers": max(step["free_buffers"] for step in steps),
        "largest_footprint": max(step["footprint"] for step in steps), "footprints": [step["footprint"] for step in steps[99::100]],
    }  # fmt: skip


if __name__ == "__main__":
    main()
