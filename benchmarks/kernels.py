"""The parts of sft.py without a peer: the loss over a large vocabulary, checkpointing, and the utilization of a step.

Each runs in its own process (``python benchmarks/kernels.py NAME``) and prints one JSON document. *Plain* is MLX's own method: the
model's call, logits for all positions, ``nn.losses.cross_entropy``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from mlxtune.models.cpu import blas

blas.preload()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from mlxtune.models import bundled, head, load, lora  # noqa: E402
from mlxtune.models.cpu import exp, streams  # noqa: E402
from mlxtune.models.cpu.streams import StreamPool  # noqa: E402
from mlxtune.models.resolve import resolve  # noqa: E402
from mlxtune.recipe import AdapterSection  # noqa: E402
from mlxtune.training import sft  # noqa: E402
from mlxtune.training.layer_stack import LayerStack  # noqa: E402


def timed(work: Callable[[], Any], repeat: int = 3) -> dict[str, float]:
    """Return the best time of ``repeat`` runs after a warm-up, in seconds, and the peak memory in bytes."""
    mx.eval(work())
    mx.reset_peak_memory()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        mx.eval(work())
        times.append(time.perf_counter() - start)
    return {"seconds": min(times), "peak": mx.get_peak_memory()}


def cross_entropy(variant: str) -> dict[str, float]:
    """Measure loss and gradient of 1,024 trained hidden states of width 576 over a vocabulary of 131,072."""
    weight = mx.random.normal((131_072, 576)) * 0.05
    hidden, targets = mx.random.normal((1024, 576)), mx.random.randint(0, 131_072, (1024,))
    linear = nn.Linear(576, 131_072, bias=False)
    linear.weight = weight
    mx.eval(weight, hidden, targets)
    fused = head.fused_logp(linear)
    if variant == "own":
        pool = StreamPool(streams.default_size())
        pool.share_cores(pool.size)

        def split_loss(hidden: mx.array) -> mx.array:
            losses = []
            for part in range(pool.size):
                with pool(part):
                    losses.append(-fused(hidden[part :: pool.size], targets[part :: pool.size]).sum())
            return mx.stack(losses).sum()

        loss = mx.value_and_grad(split_loss)
    else:
        exp.uninstall()
        loss = mx.value_and_grad(lambda hidden: nn.losses.cross_entropy(hidden @ weight.T, targets).sum())
    input_bytes = weight.nbytes + hidden.nbytes
    result = timed(lambda: loss(hidden))
    return result | {"extra": result["peak"] - input_bytes}


def checkpointing(variant: str) -> dict[str, float]:
    """Measure loss and gradients of 8 rows of 512 trained tokens, with adapters on all 30 layers of the bundled model."""
    loaded = load.load(resolve(bundled.DEFAULT.alias))
    lora.add(loaded.model, AdapterSection(rank=8, alpha=160), 0)
    tokens = mx.random.randint(0, 49_000, (8, 513))
    loaded.model.train()
    if variant == "plain":
        exp.uninstall()

        def plain(model: nn.Module) -> mx.array:
            loss: mx.array = nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).sum()
            return loss

        return timed(lambda: nn.value_and_grad(loaded.model, plain)(loaded.model), repeat=1)
    stack = LayerStack(loaded.model, head.split_head(loaded.model), StreamPool(streams.default_size()), checkpointed=True)
    halves = [tokens[part :: stack.streams.size] for part in range(stack.streams.size)]
    arrays = {
        "prefix": [], "frozen_outputs": [], "inputs": [half[:, :-1] for half in halves],
        "positions": [mx.arange(half[:, 1:].size) for half in halves], "targets": [half[:, 1:].flatten() for half in halves],
        "weights": [mx.ones((half[:, 1:].size,)) for half in halves],
    }  # fmt: skip
    mx.eval(arrays)
    stack.streams.share_cores(len(halves))
    return timed(lambda: nn.value_and_grad(loaded.model, lambda: sft.loss_sum(stack, arrays))(), repeat=1)


def utilization(_: str) -> dict[str, Any]:
    """Measure the fraction of the float32 matmul speed that a training step reaches: 8 rows of 192 tokens, a quarter trained."""
    square = mx.random.normal((2048, 2048))
    mx.eval(square)
    peak_speed = 2 * 2048**3 / timed(lambda: square @ square, 5)["seconds"]
    loaded = load.load(resolve(bundled.DEFAULT.alias))
    lora.add(loaded.model, AdapterSection(rank=8, alpha=160, layers=16), 0)
    stack = LayerStack(loaded.model, head.split_head(loaded.model), StreamPool(streams.default_size()))
    tokens = mx.random.randint(0, 49_000, (8, 193))
    count = stack.streams.size
    parts = [tokens[part::count] for part in range(count)]
    positions = mx.concatenate([mx.arange(row * 192 + 144, row * 192 + 192) for row in range(8 // count)])
    arrays = {
        "prefix": [], "frozen_outputs": [], "inputs": [part[:, :-1] for part in parts], "positions": [positions] * count,
        "targets": [part[:, 1:].flatten()[positions] for part in parts], "weights": [mx.ones(positions.shape)] * count,
    }  # fmt: skip
    mx.eval(arrays)
    loaded.model.train()
    stack.streams.share_cores(count)
    result = timed(lambda: nn.value_and_grad(loaded.model, lambda: sft.loss_sum(stack, arrays))())
    layer = sum(array.size for name, array in tree_flatten(loaded.model.layers[0].parameters()) if name.endswith("proj.weight"))
    embedding = loaded.model.model.embed_tokens.weight.size
    flops = 2 * 8 * 192 * layer * (30 + 16) + 2 * 2 * 8 * 48 * embedding  # forward, and backward to the inputs of adapted layers
    attention = 2 * 2 * 8 * 9 * 192 * 192 * 64 * (30 + 2 * 16)
    gate = mx.random.normal((1536, 1536))
    mx.eval(gate)
    element_wise = {
        "exp": timed(lambda: mx.exp(gate))["seconds"], "expm1": timed(lambda: mx.expm1(gate))["seconds"],
        "add": timed(lambda: gate + gate)["seconds"],
    }  # fmt: skip
    return result | {
        "matmul": peak_speed, "step": (flops + attention) / result["seconds"], "utilization": (flops + attention) / result["seconds"] / peak_speed,
        "ns_per_element": {name: seconds / gate.size * 1e9 for name, seconds in element_wise.items()},
    }  # fmt: skip


if __name__ == "__main__":
    name, _, variant = sys.argv[1].partition("/")
    parts: dict[str, Callable[[str], dict[str, Any]]] = {
        "cross_entropy": cross_entropy,
        "checkpointing": checkpointing,
        "utilization": utilization,
    }
    print(json.dumps(parts[name](variant)))
