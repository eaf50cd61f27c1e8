"""The same answer whoever else is asking.

A batched forward pass gives the scores of a row alone but for rounding: other shapes take other kernels, and sums are made in
another order. As long as the best token leads by more than such a difference can be, the same token is chosen. Where it does not
lead by that much, what decides is a computation that depends on nothing but the row's own tokens (:class:`Alone`). So an answer is
a function of its question, its adapter and its sampling, and of nothing else, as long as scores move by less than the tolerance.

How much they move is not assumed: :func:`movement` measures it on this machine and this model when the engine starts, and whenever
a row is computed alone the difference is measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

STEP = 64  # tokens that are computed together: where a block begins depends on nothing else
SAFETY = 4  # the tolerance is so many times the largest movement that was seen
LEAST = 1e-6  # of the largest score: what counts as a movement where none was seen, so that one would be found out
WRONG = 0.1  # of the largest score: what is no rounding any more
_TOKENS = [1 + (at * 37) % 60 for at in range(48)]  # of the probe; any vocabulary has them
_STEPS = 4


class Alone:
    """The scores of one sequence, computed in blocks that begin at multiples of ``STEP``, whatever was computed before."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._caches: list[Any] = []
        self._done = 0

    def scores(self, tokens: Sequence[int]) -> mx.array:
        """Scores ``(1, vocabulary)`` of what follows ``tokens``, which begin with those of the call before; float32."""
        if not self._caches or self._done > len(tokens) - 1:
            self._caches, self._done = make_prompt_cache(self._model), 0
        while self._done + STEP < len(tokens):
            self._model(mx.array([list(tokens[self._done : self._done + STEP])]), cache=self._caches)
            mx.eval([cache.state for cache in self._caches])
            self._done += STEP
        tail = list(tokens[self._done :])
        scores: mx.array = self._model(mx.array([tail]), cache=self._caches)[:, -1].astype(mx.float32)
        mx.eval(scores)
        if can_trim_prompt_cache(self._caches):
            trim_prompt_cache(self._caches, len(tail))
        else:
            self._caches = []
        return scores


def movement(model: nn.Module, rows: int = 3) -> float | None:
    """The largest difference of a score between a row alone and the same row in a batch; ``None`` where rows cannot be batched.

    Rows of different length go on with given tokens, both ways. An architecture whose batches are plainly wrong, not just rounded
    differently, counts as one that cannot be batched.
    """
    lengths = [len(_TOKENS) - 17 * row for row in range(rows)]
    singles = []
    for length in lengths:
        caches = make_prompt_cache(model)
        if not all(hasattr(cache, "merge") for cache in caches):
            return None
        model(mx.array([_TOKENS[:length]]), cache=caches)
        mx.eval([cache.state for cache in caches])
        singles.append(caches)
    try:
        together = [parts[0].merge(list(parts)) for parts in zip(*singles, strict=True)]
        worst, size = 0.0, 1.0
        for step in range(_STEPS):
            nexts = mx.array([[_TOKENS[(length + step) % len(_TOKENS)]] for length in lengths])
            batch = model(nexts, cache=together)[:, -1].astype(mx.float32)
            alone = mx.concatenate([model(nexts[row : row + 1], cache=singles[row])[:, -1] for row in range(rows)]).astype(
                mx.float32
            )
            found: Any = mx.abs(batch - alone).max().item()
            most: Any = mx.abs(alone).max().item()
            size = max(size, most)
            if not found <= WRONG * size:  # or no number
                return None
            worst = max(worst, found)
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError):
        return None
    return max(worst, LEAST * size)
