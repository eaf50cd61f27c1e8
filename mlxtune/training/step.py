"""One optimizer step: sum gradients over batches, divide them by their weight, clip them, and apply them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from mlxtune.training.layer_stack import LayerStack

Loss = Callable[[LayerStack, Any], tuple[mx.array, mx.array]]


class Stepper:
    """Computes optimizer steps for ``objective``, compiled on a GPU. On a CPU, compiling gains nothing and takes seconds.

    Create it after the optimizer's state is restored, because compiled functions capture that state.
    """

    def __init__(self, stack: LayerStack, optimizer: optim.Optimizer, objective: Loss, *, clip: float, compiled: bool) -> None:
        self.stack, self.optimizer, self.clip = stack, optimizer, clip
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
        new = self._gradients(arrays)
        return new if sums is None else tree_map(mx.add, sums, new)

    def apply(self, gradients: Any, weight: int | mx.array) -> mx.array:
        """Update the adapter with ``gradients`` divided by ``weight``. Return their norm before clipping, a lazy scalar."""
        return self._update(gradients, mx.array(weight, mx.float32))

    def _apply(self, gradients: Any, weight: mx.array) -> mx.array:
        gradients = tree_map(lambda gradient: gradient / weight.astype(gradient.dtype), gradients)
        gradients, norm = optim.clip_grad_norm(gradients, self.clip or float("inf"))
        self.optimizer.update(self.stack.model, gradients)
        return norm

    @property
    def results(self) -> Sequence[Any]:
        """Return the adapter and optimizer state, which must be evaluated after a step."""
        return [self.stack.model.trainable_parameters(), self.optimizer.state]
