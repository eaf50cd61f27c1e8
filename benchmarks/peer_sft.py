"""The peer of sft.py: `mlx_lm.lora`'s own training function on a data file, timed per iteration. Prints a JSON document.

Runs in its own process. ``--same-kernels`` gives it what mlxtune uses on a CPU: weights dequantized to float32 and a fast BLAS.
Without the option it runs as installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import Any

from peer_lora import lora_arguments


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, help="rows of {prompt, completion}")
    parser.add_argument("--iters", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=0, help="iterations that are not timed")
    parser.add_argument("--same-kernels", action="store_true")
    options = parser.parse_args()
    if options.same_kernels:
        from mlxtune.models.cpu import blas

        blas.preload()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train ``iters`` iterations with the peer's defaults (batch 4, rank 8, scale 20, 16 layers), the prompt masked."""
    import mlx.core as mx
    import mlx_lm
    import numpy as np
    from mlx_lm import lora
    from mlx_lm.tuner import trainer
    from mlx_lm.utils import dequantize_model

    np.random.seed(0)
    model, tokenizer = lora.load(options.model)
    if options.same_kernels:
        model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
        model = dequantize_model(model)
        mx.eval(model.parameters())
    counts: list[tuple[int, int, int]] = []

    def counting_batches(**arguments: Any) -> Any:
        for batch, lengths in trainer.iterate_batches(**arguments):
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

    arguments = lora_arguments(options.model, options.train, options.iters)
    train = lora.train
    with contextlib.redirect_stdout(sys.stderr):
        data, no_data, _ = lora.load_dataset(arguments, tokenizer)
        lora.train = lambda **arguments: train(**arguments | {"val_dataset": None, "iterate_batches": counting_batches})
        mx.reset_peak_memory()
        lora.train_model(arguments, model, data, no_data, Report())
    timed = slice(options.warmup, None)
    seconds_total = sum(seconds[timed])
    trained, real, computed = (sum(count[index] for count in counts[: len(seconds)][timed]) for index in range(3))
    return {
        "version": mlx_lm.__version__, "iterations": len(seconds[timed]), "seconds": seconds_total, "trained": trained,
        "trained_per_s": trained / seconds_total, "computed_per_real": computed / real, "peak": mx.get_peak_memory(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
