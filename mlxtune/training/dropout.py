"""Dropout that can be repeated: a layer that is computed again for the backward pass must drop the same elements.

MLX's own dropout draws from a global state that only moves forward, so a checkpointed layer would draw anew.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten


class Draws:
    """A sequence of keys that can be started again."""

    key: mx.array

    def next(self) -> mx.array:
        """The next key of the sequence that starts at ``key``."""
        self.key, drawn = mx.random.split(self.key)
        return drawn


class RepeatableDropout(nn.Module):
    """``nn.Dropout`` (Srivastava et al. 2014) that draws from ``draws``."""

    def __init__(self, dropped: nn.Dropout, draws: Draws) -> None:
        super().__init__()
        self._kept, self._draws = dropped._p_1, draws

    def __call__(self, x: mx.array) -> mx.array:
        if self._kept == 1 or not self.training:
            return x
        return mx.random.bernoulli(self._kept, x.shape, key=self._draws.next()) * x * (1 / self._kept)


def make_repeatable(layer: nn.Module) -> Draws:
    """Let every dropout inside ``layer`` draw from the sequence that is returned."""
    draws = Draws()
    found = [(name, RepeatableDropout(module, draws)) for name, module in layer.named_modules() if isinstance(module, nn.Dropout)]
    if found:
        layer.update_modules(tree_unflatten(found))
    return draws
