"""One optimizer step: gradients of its batches, summed, divided by what they are sums over, clipped, applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from mlxtune.training.objective import Arrays
from mlxtune.training.stack import Stack

Loss = Callable[[Stack, Arrays], tuple[mx.array, mx.array]]


class Stepper:
    """Computes steps of ``objective``. On a GPU both halves are compiled; on a CPU that gains nothing and costs seconds.

    Make it after the optimizer's state is what it should be: compiled functions hold on to it.
    """

    def __init__(self, stack: Stack, optimizer: optim.Optimizer, objective: Loss, *, clip: float, compiled: bool) -> None:
        self.stack, self.optimizer, self.clip = stack, optimizer, clip
        model = stack.model
        gradients = nn.value_and_grad(model, lambda arrays: objective(stack, arrays))
        random: Any = mx.random.state
        self._gradients: Any = gradients
        self._update: Any = self._apply
        if compiled:
            state = [model.state, random]
            self._gradients = mx.compile(gradients, inputs=state, outputs=state)
            learned = [model.state, optimizer.state]
            self._update = mx.compile(self._apply, inputs=learned, outputs=learned)

    def add(self, arrays: Arrays, sums: Any = None) -> Any:
        """``((loss, metrics), gradients)`` of one batch, each a sum, added to ``sums`` of the ones before. Lazy."""
        self.stack.lanes.share(len(arrays["inputs"]))
        new = self._gradients(arrays)
        return new if sums is None else tree_map(mx.add, sums, new)

    def apply(self, gradients: Any, weight: int | mx.array) -> mx.array:
        """Update the adapter with ``gradients`` divided by ``weight``; their norm before clipping, a scalar. Lazy."""
        return self._update(gradients, mx.array(weight, mx.float32))

    def _apply(self, gradients: Any, weight: mx.array) -> mx.array:
        gradients = tree_map(lambda gradient: gradient / weight.astype(gradient.dtype), gradients)
        gradients, norm = optim.clip_grad_norm(gradients, self.clip or float("inf"))
        self.optimizer.update(self.stack.model, gradients)
        return norm

    @property
    def results(self) -> Sequence[Any]:
        """What a step leaves behind: adapter and optimizer state."""
        return [self.stack.model.trainable_parameters(), self.optimizer.state]
