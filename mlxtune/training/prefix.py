"""Compute what all rows of a batch begin with once, and let every row attend to it; gradients flow through.

A support desk's rows share their system prompt, a preference pair shares its question. The prefix runs as one sequence and
its keys and values are recorded; the rows then start behind it. Exact: the same sums in another order. It needs plain
attention (each layer's cache holds keys and values of all positions), so it is tried on each architecture before it is used.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.models.head import Split, magnitude

WORTH = 16  # a shorter prefix is not worth a second pass


class Recorded:
    """A layer's cache in the prefix pass: keeps keys and values ``(1, heads, prefix, width)`` as part of the graph."""

    offset = 0

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, length: int, **_: Any) -> str:
        return "causal"


class Behind:
    """A layer's cache in the pass over the rows: each sees the recorded prefix, then itself."""

    def __init__(self, prefix: Recorded) -> None:
        assert prefix.keys is not None
        assert prefix.values is not None
        self.keys, self.values = prefix.keys, prefix.values
        self.offset = prefix.keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return self._join(self.keys, keys), self._join(self.values, values)

    def make_mask(self, length: int, **_: Any) -> str:
        return "causal"  # MLX aligns it at the bottom right: the prefix is visible to every row

    @staticmethod
    def _join(prefix: mx.array, own: mx.array) -> mx.array:
        return mx.concatenate([mx.broadcast_to(prefix, (own.shape[0], *prefix.shape[1:])), own], axis=2)


def hidden_behind(split: Split, layers: int, prefix: mx.array, rows: mx.array) -> mx.array:
    """Hidden states ``(batch, tokens, width)`` of ``rows`` ``(batch, tokens)``, each preceded by ``prefix`` ``(tokens,)``."""
    recorded = [Recorded() for _ in range(layers)]
    split.backbone(prefix[None], recorded)
    return split.backbone(rows, [Behind(cache) for cache in recorded])


def can_share(model: nn.Module, split: Split) -> bool:
    """Whether sharing a prefix gives this architecture's own hidden states, tried on a few tokens."""
    tokens = mx.array([[1, 5, 2, 9, 4, 7], [1, 5, 2, 9, 3, 8]])
    try:
        plain = split.backbone(tokens)[:, 4:]
        shared = hidden_behind(split, len(model.layers), tokens[0, :4], tokens[:, 4:])
        return bool(mx.allclose(plain, shared, rtol=1e-2, atol=1e-2 * magnitude(plain)).item())
    except Exception:
        return False  # caches differ in ways that only running them tells: sliding windows, recurrent layers, tuples
