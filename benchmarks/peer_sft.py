"""The peer of sft.py: `mlx_lm.lora`'s own training function on a data file, timed per iteration; prints one JSON document.

Runs in a process of its own. ``--same-kernels`` gives it what mlxtune computes with off Metal: the weights dequantised to float32
and the fast BLAS. Without it, it is what a user gets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, help="rows of {prompt, completion}")
    parser.add_argument("--iters", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=0, help="iterations that are not timed")
    parser.add_argument("--same-kernels", action="store_true")
    asked = parser.parse_args()
    if asked.same_kernels:
        from mlxtune.models import blas

        blas.preload()
    print(json.dumps(run(asked)))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Train ``iters`` iterations with the peer's defaults (batch 4, rank 8, scale 20, 16 layers), the prompt masked."""
    import mlx.core as mx
    import mlx_lm
    import numpy as np
    from mlx_lm import lora
    from mlx_lm.tuner import trainer
    from mlx_lm.utils import dequantize_model

    np.random.seed(0)
    model, tokenizer = lora.load(asked.model)
    if asked.same_kernels:
        model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
        model = dequantize_model(model)
        mx.eval(model.parameters())
    folder = Path(tempfile.mkdtemp())
    (folder / "train.jsonl").write_text(Path(asked.train).read_text())
    settings = dict(lora.CONFIG_DEFAULTS) | {
        "model": asked.model, "train": True, "data": str(folder), "iters": asked.iters, "mask_prompt": True, "steps_per_report": 1,
        "steps_per_eval": 10**9, "save_every": 10**9, "adapter_path": str(folder / "adapters"), "max_seq_length": 512,
    }  # fmt: skip
    counts: list[tuple[int, int, int]] = []

    def counted(**given: Any) -> Any:
        for batch, lengths in trainer.iterate_batches(**given):
            ends = np.array(lengths)
            steps = np.arange(1, batch.shape[1])
            trained = int(((steps >= ends[:, :1]) & (steps <= ends[:, 1:])).sum())
            real = int(np.minimum(ends[:, 1], batch.shape[1]).sum() - batch.shape[0])
            counts.append((trained, real, batch.shape[0] * (batch.shape[1] - 1)))
            yield batch, lengths

    seconds: list[float] = []

    class Report:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            seconds.append(1 / info["iterations_per_second"])

        def on_val_loss_report(self, info: dict[str, Any]) -> None:
            pass

    given = types.SimpleNamespace(**settings)
    train = lora.train
    with contextlib.redirect_stdout(sys.stderr):
        data, none, _ = lora.load_dataset(given, tokenizer)
        lora.train = lambda **more: train(**more | {"val_dataset": None, "iterate_batches": counted})
        mx.reset_peak_memory()
        lora.train_model(given, model, data, none, Report())
    timed = slice(asked.warmup, None)
    taken = sum(seconds[timed])
    trained, real, computed = (sum(count[at] for count in counts[: len(seconds)][timed]) for at in range(3))
    return {
        "version": mlx_lm.__version__, "iterations": len(seconds[timed]), "seconds": taken, "trained": trained,
        "trained_per_s": trained / taken, "computed_per_real": computed / real, "peak": mx.get_peak_memory(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
