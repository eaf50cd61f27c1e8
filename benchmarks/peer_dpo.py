"""The peer of dpo.py: ``mlx_lm_lora``'s own DPO function on a data file, timed per iteration. Prints a JSON document.

Runs in its own process with the peer's defaults, except 16 LoRA layers. ``--same-kernels`` gives both of its models what mlxtune
uses on a CPU: weights dequantized to float32 and a fast BLAS.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, help="rows of {prompt, chosen, rejected}")
    parser.add_argument("--iters", type=int, required=True)
    parser.add_argument("--same-kernels", action="store_true")
    options = parser.parse_args()
    if options.same_kernels:
        from mlxtune.models.cpu import blas

        blas.preload()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train ``iters`` pairs, one at a time: rank 8, scale 10, 16 layers, Adam at 1e-5, beta 0.1, a second model as the reference."""
    import mlx.core as mx
    import mlx.optimizers as optim
    import numpy as np
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import dequantize_model, load

    device_info = mx.device_info
    if "max_recommended_working_set_size" not in device_info():  # used by the peer, but missing in MLX's CPU backend
        mx.device_info = lambda *device: {**device_info(*device), "max_recommended_working_set_size": 0}
        mx.set_wired_limit = lambda limit: 0
    with contextlib.redirect_stdout(sys.stderr):
        from mlx_lm_lora.trainer import dpo_trainer
        from mlx_lm_lora.trainer.datasets import CacheDataset, DPODataset

    def load_model() -> Any:
        model, tokenizer = load(options.model)
        if options.same_kernels:
            model.apply(lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array)
            model = dequantize_model(model)
        model.freeze()
        mx.eval(model.parameters())
        return model, tokenizer

    (model, tokenizer), (reference, _) = load_model(), load_model()
    mx.random.seed(0)
    np.random.seed(0)
    linear_to_lora_layers(model, 16, {"rank": 8, "dropout": 0.0, "scale": 10.0})
    rows = [json.loads(line) for line in Path(options.train).read_text().splitlines()]
    seconds: list[float] = []
    losses: list[float] = []

    class Report:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            seconds.append(1 / info["iterations_per_second"])
            losses.append(float(info["train_loss"]))

        def on_val_loss_report(self, info: dict[str, Any]) -> None:
            pass

    settings = dpo_trainer.DPOTrainingArgs(
        batch_size=1, iters=options.iters, steps_per_report=1, steps_per_eval=10**9, steps_per_save=10**9, max_seq_length=512,
        grad_checkpoint=False, adapter_file=str(Path(tempfile.mkdtemp()) / "adapters.safetensors"), beta=0.1, seq_step_size=None,
    )  # fmt: skip
    mx.reset_peak_memory()
    with contextlib.redirect_stdout(sys.stderr):
        dpo_trainer.train_dpo(
            model=model, ref_model=reference, optimizer=optim.Adam(learning_rate=1e-5),
            train_dataset=CacheDataset(DPODataset(rows, tokenizer)), val_dataset=None, args=settings, training_callback=Report(),
            loss_type="sigmoid",
        )  # fmt: skip
    total = sum(seconds)
    return {
        "iterations": len(seconds), "seconds": total, "rows_per_s": len(seconds) / total, "loss": losses[:4],
        "peak": mx.get_peak_memory(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
