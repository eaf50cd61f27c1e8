"""Optimizers and learning-rate schedules. MLX has no 8-bit optimizer states; with LoRA's few parameters, they would save little."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from mlxtune.recipe import AdapterSection, TrainingSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.segments import segment_gradients

_OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adamw": partial(optim.AdamW, bias_correction=True),
    "adafactor": partial(optim.Adafactor, relative_step=False, scale_parameter=False),
    "lion": optim.Lion,
    "muon": optim.Muon,
}


def make(section: TrainingSection, adapter: AdapterSection) -> optim.Optimizer:
    """Return the recipe's optimizer; for LoRA+, one for A and one for B. Its learning rate is 0 until :func:`set_rate` is called.

    The optimizer is AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101), Adafactor (Shazeer and Stern 2018, arXiv:1804.04235),
    Lion (Chen et al. 2023, arXiv:2302.06675) or Muon (Jordan et al. 2024).
    """
    new = partial(_OPTIMIZERS[section.optimizer], learning_rate=0.0, weight_decay=section.weight_decay)
    return new() if adapter.lora_plus == 1 else optim.MultiOptimizer([new(), new()], [lambda name, _: name.endswith("lora_b")])


def set_rate(optimizer: optim.Optimizer, rate: float, adapter: AdapterSection) -> None:
    """Set the learning rate for the next update. With LoRA+, this is the rate for A; B's rate is ``lora_plus`` times higher."""
    if isinstance(optimizer, optim.MultiOptimizer):
        optimizer.optimizers[0].learning_rate = rate * adapter.lora_plus
        optimizer.optimizers[1].learning_rate = rate
    else:
        optimizer.learning_rate = rate


def learning_rate(section: TrainingSection, step: int, total: int) -> float:
    """Return the learning rate for optimizer step ``step`` (starting at 0) of ``total``.

    All schedules start with a linear warmup. After that, ``constant`` keeps the rate, ``linear`` and ``cosine`` (Loshchilov and
    Hutter 2016, arXiv:1608.03983) decay it to 0, and ``wsd`` (warmup, stable, decay; Hu et al. 2024, arXiv:2404.06395) keeps it and
    decays it linearly over the last ``decay`` fraction of the steps.
    """
    warmup = math.ceil(section.warmup * total)
    if step < warmup:
        return section.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    match section.schedule:
        case "constant":
            return section.learning_rate
        case "linear":
            return section.learning_rate * (1 - progress)
        case "cosine":
            return section.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        case "wsd":
            decay_steps = max(1, math.ceil(section.decay * total))
            return section.learning_rate * min(1.0, (total - step) / decay_steps)


Loss = Callable[[LayerStack, Any], tuple[mx.array, mx.array]]


class Stepper:
    """Computes optimizer steps for ``objective``, compiled on a GPU. On a CPU, compiling gains nothing and takes seconds.

    Create it after the optimizer's state is restored, because compiled functions capture that state. Rows with more tokens than ``segment``
    are computed in segments, unless it is 0; the objective must then be SFT, with one part per batch.
    """

    def __init__(
        self, stack: LayerStack, optimizer: optim.Optimizer, objective: Loss, *, clip: float, compiled: bool, segment: int = 0
    ) -> None:
        self.stack, self.optimizer, self.clip, self.segment = stack, optimizer, clip, segment
        model = stack.model
        gradients = nn.value_and_grad(model, lambda arrays: objective(stack, arrays))
        random: Any = mx.random.state
        self._gradients: Any = gradients
        self._update: Any = self._apply
        if compiled:
            state = [model.state, random]
            self._gradients = mx.compile(gradients, inputs=state, outputs=state)
            updated = [model.state, optimizer.state]
            self._update = mx.compile(self._apply, inputs=updated, outputs=updated)

    def add(self, arrays: Any, sums: Any = None) -> Any:
        """Return the sums ``((loss, metrics), gradients)`` of one batch, added to ``sums``. The result is lazy."""
        self.stack.streams.share_cores(len(arrays["inputs"]))
        tokens = sum(array.shape[-1] for array in (*arrays["prefix"], *arrays["inputs"][:1])) if self.segment else 0
        new = segment_gradients(self.stack, arrays, self.segment) if tokens > self.segment else self._gradients(arrays)
        return new if sums is None else tree_map(mx.add, sums, new)

    def apply(self, gradients: Any, weight: int | mx.array) -> mx.array:
        """Update the adapter with ``gradients`` divided by ``weight``. Return their norm before clipping, a lazy scalar."""
        return self._update(gradients, mx.array(weight, mx.float32))

    def _apply(self, gradients: Any, weight: mx.array) -> mx.array:
        # One array, because mlx's clip_grad_norm takes two more operations for each parameter
        flat = mx.concatenate([gradient.reshape(-1) for _, gradient in tree_flatten(gradients)]).astype(mx.float32)
        norm = mx.linalg.norm(flat) / weight
        scale = mx.minimum(self.clip / (norm + 1e-6), 1.0) / weight if self.clip else 1 / weight
        gradients = tree_map(lambda gradient: (gradient * scale).astype(gradient.dtype), gradients)
        self.optimizer.update(self.stack.model, gradients)
        return norm

    @property
    def results(self) -> Sequence[Any]:
        """Return the adapter and optimizer state, which must be evaluated after a step."""
        return [self.stack.model.trainable_parameters(), self.optimizer.state]
