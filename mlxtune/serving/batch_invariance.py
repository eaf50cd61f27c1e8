"""Batch invariance: an answer does not depend on the other requests in its batch.

A batched forward pass gives the same logits as a single row except for rounding: different shapes use different kernels, which
sum in a different order. If the best token leads by more than this deviation, both choose the same token. If not, the token is
chosen by a computation that depends only on the row's own tokens (:class:`BatchInvariantScorer`). An answer therefore depends
only on its request, adapter and sampling parameters, as long as the deviation stays below the tolerance.

:func:`measure_deviation` measures the deviation when the engine starts, and every row that is computed alone updates it.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

from mlxtune.core.gpu_errors import suppress_model_errors
from mlxtune.models.prefix_cache import complete_caches

STEP = 64  # tokens per block; only this determines where a block starts
SAFETY = 4  # the tolerance is this many times the largest measured deviation
MIN_DEVIATION = 1e-6  # relative to the largest logit; assumed if no deviation was measured, so that a later one is detected
MAX_DEVIATION = 0.1  # relative to the largest logit; a larger deviation is not a rounding error
_TEST_TOKENS = [1 + (i * 37) % 60 for i in range(48)]  # token IDs that exist in every vocabulary
_TEST_ROWS, _TEST_STEPS = 3, 4


class BatchInvariantScorer:
    """Computes the logits of one sequence in blocks that start at multiples of ``STEP``, regardless of earlier calls."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._caches: list[Any] = []
        self._done = 0

    def logits(self, tokens: Sequence[int]) -> mx.array:
        """Return the next token's logits, float32 ``(1, vocabulary)``. ``tokens`` must extend those of the previous call."""
        if not self._caches or self._done > len(tokens) - 1:
            # complete caches, because a rotating one cannot be trimmed once it is full
            self._caches, self._done = complete_caches(self._model) or make_prompt_cache(self._model), 0
        while self._done + STEP < len(tokens):
            self._model(mx.array([list(tokens[self._done : self._done + STEP])]), cache=self._caches)
            mx.eval([cache.state for cache in self._caches])
            self._done += STEP
        tail = list(tokens[self._done :])
        logits: mx.array = self._model(mx.array([tail]), cache=self._caches)[:, -1].astype(mx.float32)
        mx.eval(logits)
        if can_trim_prompt_cache(self._caches):
            trim_prompt_cache(self._caches, len(tail))
        else:
            self._caches = []
        return logits


@suppress_model_errors()
def measure_deviation(model: nn.Module) -> float | None:
    """Return the largest difference in a logit between a row alone and in a batch, or ``None`` if rows cannot be batched.

    Rows of different lengths are continued with fixed tokens, both alone and in a batch. An architecture whose batches are
    clearly wrong, not just rounded differently, counts as one that cannot be batched.
    """
    lengths = [len(_TEST_TOKENS) - 17 * row for row in range(_TEST_ROWS)]
    singles = []
    for length in lengths:
        caches = make_prompt_cache(model)
        if not all(hasattr(cache, "merge") for cache in caches):
            return None
        model(mx.array([_TEST_TOKENS[:length]]), cache=caches)
        mx.eval([cache.state for cache in caches])
        singles.append(caches)
    merged = [layer[0].merge(list(layer)) for layer in zip(*singles, strict=True)]
    largest, scale = 0.0, 1.0
    for step in range(_TEST_STEPS):
        tokens = mx.array([[_TEST_TOKENS[(length + step) % len(_TEST_TOKENS)]] for length in lengths])
        batched = model(tokens, cache=merged)[:, -1].astype(mx.float32)
        alone = [model(tokens[row : row + 1], cache=singles[row])[:, -1] for row in range(_TEST_ROWS)]
        expected = mx.concatenate(alone).astype(mx.float32)
        deviation: Any = mx.abs(batched - expected).max().item()
        top: Any = mx.abs(expected).max().item()
        scale = max(scale, top)
        if not deviation <= MAX_DEVIATION * scale:  # also if NaN
            return None
        largest = max(largest, deviation)
    return max(largest, MIN_DEVIATION * scale)
