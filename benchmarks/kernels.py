"""The parts of sft.py that need no peer's loop: the loss over a large vocabulary, checkpointing, and where a step's time goes.

Each runs in a process of its own (``python benchmarks/kernels.py NAME``) and prints one JSON document. *Plain* is MLX's own way: the
model's call, logits for all positions, ``nn.losses.cross_entropy``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from mlxtune.models import blas

blas.preload()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from mlxtune.models import (  # noqa: E402
    bundled,
    cpu,
    head,
    lanes,
    load,
    lora,
)
from mlxtune.models.lanes import Lanes  # noqa: E402
from mlxtune.models.resolve import resolve  # noqa: E402
from mlxtune.recipe import AdapterSection  # noqa: E402
from mlxtune.training import sft  # noqa: E402
from mlxtune.training.stack import Stack  # noqa: E402


def timed(work: Callable[[], Any], repeat: int = 3) -> dict[str, float]:
    """The best of ``repeat`` runs after one that is not counted, in seconds, and the peak memory in bytes."""
    mx.eval(work())
    mx.reset_peak_memory()
    taken = []
    for _ in range(repeat):
        start = time.perf_counter()
        mx.eval(work())
        taken.append(time.perf_counter() - start)
    return {"seconds": min(taken), "peak": mx.get_peak_memory()}


def cross_entropy(which: str) -> dict[str, float]:
    """Loss and gradient with respect to 1,024 hidden states of width 576 over a vocabulary of 131,072, all of them trained."""
    weight = mx.random.normal((131_072, 576)) * 0.05
    hidden, targets = mx.random.normal((1024, 576)), mx.random.randint(0, 131_072, (1024,))
    linear = nn.Linear(576, 131_072, bias=False)
    linear.weight = weight
    mx.eval(weight, hidden, targets)
    quick = head.one_pass(linear)
    if which == "own":
        sides = Lanes(lanes.suitable())
        sides.share(sides.count)

        def dealt(hidden: mx.array) -> mx.array:
            losses = []
            for lane in range(sides.count):
                with sides(lane):
                    losses.append(-quick(hidden[lane :: sides.count], targets[lane :: sides.count]).sum())
            return mx.stack(losses).sum()

        loss = mx.value_and_grad(dealt)
    else:
        cpu.release()
        loss = mx.value_and_grad(lambda hidden: nn.losses.cross_entropy(hidden @ weight.T, targets).sum())
    held = weight.nbytes + hidden.nbytes
    found = timed(lambda: loss(hidden))
    return found | {"extra": found["peak"] - held}


def checkpointing(which: str) -> dict[str, float]:
    """Loss and gradients of 8 rows of 512 tokens, all of them trained, adapters on all 30 layers of the bundled model."""
    loaded = load.load(resolve(bundled.ALIAS))
    lora.add(loaded.model, AdapterSection(rank=8, alpha=160), 0)
    tokens = mx.random.randint(0, 49_000, (8, 513))
    loaded.model.train()
    if which == "plain":
        cpu.release()

        def plain(model: nn.Module) -> mx.array:
            return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).sum()

        return timed(lambda: nn.value_and_grad(loaded.model, plain)(loaded.model), repeat=1)
    stack = Stack(loaded.model, head.split(loaded.model), Lanes(lanes.suitable()), checkpointed=True)
    halves = [tokens[at :: stack.lanes.count] for at in range(stack.lanes.count)]
    arrays = {
        "prefix": [], "entering": [], "inputs": [half[:, :-1] for half in halves],
        "positions": [mx.arange(half[:, 1:].size) for half in halves], "targets": [half[:, 1:].flatten() for half in halves],
        "weights": [mx.ones((half[:, 1:].size,)) for half in halves],
    }  # fmt: skip
    mx.eval(arrays)
    stack.lanes.share(len(halves))
    return timed(lambda: nn.value_and_grad(loaded.model, lambda: sft.loss_sum(stack, arrays))(), repeat=1)


def share(_: str) -> dict[str, Any]:
    """What part of the machine's float32 matrix-product speed a training step reaches: 8 rows of 192 tokens, a quarter trained."""
    square = mx.random.normal((2048, 2048))
    mx.eval(square)
    top = 2 * 2048**3 / timed(lambda: square @ square, 5)["seconds"]
    loaded = load.load(resolve(bundled.ALIAS))
    lora.add(loaded.model, AdapterSection(rank=8, alpha=160, layers=16), 0)
    stack = Stack(loaded.model, head.split(loaded.model), Lanes(lanes.suitable()))
    tokens = mx.random.randint(0, 49_000, (8, 193))
    count = stack.lanes.count
    parts = [tokens[at::count] for at in range(count)]
    at = mx.concatenate([mx.arange(row * 192 + 144, row * 192 + 192) for row in range(8 // count)])
    arrays = {
        "prefix": [], "entering": [], "inputs": [part[:, :-1] for part in parts], "positions": [at] * count,
        "targets": [part[:, 1:].flatten()[at] for part in parts], "weights": [mx.ones(at.shape)] * count,
    }  # fmt: skip
    mx.eval(arrays)
    loaded.model.train()
    stack.lanes.share(count)
    found = timed(lambda: nn.value_and_grad(loaded.model, lambda: sft.loss_sum(stack, arrays))())
    layer = sum(array.size for name, array in tree_flatten(loaded.model.layers[0].parameters()) if name.endswith("proj.weight"))
    embedding = loaded.model.model.embed_tokens.weight.size
    work = 2 * 8 * 192 * layer * (30 + 16) + 2 * 2 * 8 * 48 * embedding  # forward, and backward to the inputs of adapted layers
    attention = 2 * 2 * 8 * 9 * 192 * 192 * 64 * (30 + 2 * 16)
    gate = mx.random.normal((1536, 1536))
    mx.eval(gate)
    each = {
        "exp": timed(lambda: mx.exp(gate))["seconds"], "expm1": timed(lambda: mx.expm1(gate))["seconds"],
        "add": timed(lambda: gate + gate)["seconds"],
    }  # fmt: skip
    return found | {
        "matrix_product": top, "step": (work + attention) / found["seconds"], "share": (work + attention) / found["seconds"] / top,
        "ns_per_element": {name: seconds / gate.size * 1e9 for name, seconds in each.items()},
    }  # fmt: skip


if __name__ == "__main__":
    name, _, which = sys.argv[1].partition("/")
    parts: dict[str, Callable[[str], dict[str, Any]]] = {
        "cross_entropy": cross_entropy,
        "checkpointing": checkpointing,
        "share": share,
    }
    print(json.dumps(parts[name](which)))
