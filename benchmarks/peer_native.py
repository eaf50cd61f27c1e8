"""The peers of native.py: ``mlx_lm.lora``'s training function, alone or with mlx-train-perf's loss. Prints a JSON document.

Runs in its own process. On a CPU, it uses mlxtune's 16-bit matrix products and BLAS, because MLX's own would take minutes per step.
mlx-train-perf runs with its chunked loss: its kernels, and the packing that needs them, exist only on Metal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from peer_lora import lora_arguments

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # mlxtune need not be installed in the peer's environment


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, help="rows of {prompt, completion}")
    parser.add_argument("--peer", required=True, choices=("mlx_lm.lora", "mlx-train-perf"))
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()
    from mlxtune.models.cpu import blas

    blas.preload()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train with the peer's defaults (batch 4, rank 8, scale 20, 16 layers), the prompt masked."""
    import mlx.core as mx
    import mlx_lm
    import numpy as np
    from mlx_lm import lora
    from mlx_lm.tuner import trainer

    from mlxtune.models.cpu import exp
    from mlxtune.planning.machine import footprint

    if mx.default_device().type != mx.DeviceType.gpu:
        mx.quantized_matmul = exp.quantized_matmul
    np.random.seed(0)
    model, tokenizer = lora.load(options.model)
    arguments = lora_arguments(options.model, options.train, options.steps)
    counts: list[tuple[int, int]] = []
    traces: list[int] = []
    reports: list[tuple[float, float, int]] = []
    versions = {"mlx": mx.__version__, "mlx-lm": mlx_lm.__version__}
    loss: Any = trainer.default_loss
    if options.peer == "mlx-train-perf":
        from importlib.metadata import version

        from mlx_train_perf.adapters.mlx_lm import make_loss_fn

        versions["mlx-train-perf"] = version("mlx-train-perf")
        on_metal = mx.metal.is_available()
        loss = make_loss_fn(model, impl="auto" if on_metal else "chunked", allow_unverified_mlx=True)

    def counted_loss(*arguments: Any) -> Any:
        traces.append(len(reports))
        return loss(*arguments)

    def counted_batches(**arguments: Any) -> Any:
        for batch, lengths in trainer.iterate_batches(**arguments):
            ends = np.array(lengths)[:, 1]
            counts.append((int(np.minimum(ends, batch.shape[1]).sum() - batch.shape[0]), batch.shape[0] * (batch.shape[1] - 1)))
            yield batch, lengths

    class Report:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            reports.append((time.perf_counter(), time.process_time(), footprint()))

        def on_val_loss_report(self, info: dict[str, Any]) -> None:
            pass

    train = lora.train
    with contextlib.redirect_stdout(sys.stderr):
        data, no_data, _ = lora.load_dataset(arguments, tokenizer)
        changes = {"val_dataset": None, "iterate_batches": counted_batches, "loss": counted_loss}
        lora.train = lambda **arguments: train(**arguments | changes)
        mx.reset_peak_memory()
        lora.train_model(arguments, model, data, no_data, Report())
    later = reports[len(reports) // 2 :]
    counts = counts[: len(reports)]
    growth = later[-1][2] - later[0][2]
    return {
        "versions": versions, "steps": len(reports), "seconds_per_step": (later[-1][0] - later[0][0]) / (len(later) - 1),
        "cpu_seconds_per_step": (later[-1][1] - later[0][1]) / (len(later) - 1),
        "traces": len(traces), "traces_after_first_epoch": sum(step >= len(reports) // 2 for step in traces),
        "computed_per_real": sum(computed for _, computed in counts) / sum(real for real, _ in counts), "peak": mx.get_peak_memory(),
        "retained": reports[-1][2] - reports[0][2], "retained_per_100": growth / (len(later) - 1) * 100,
        "footprints": [report[2] for report in reports[99::100]],
    }  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
