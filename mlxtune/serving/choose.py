"""The next token of an answer from its scores, and by how much it won.

Greedy where the temperature is 0. Otherwise by the Gumbel-max trick (Gumbel 1954): the token whose score / temperature + noise is
largest is a draw from the softmax, and with noise that depends only on the seed and the position the same draw comes again. Only
tokens of the nucleus take part: those that are reached before ``top_p`` of the mass is (Holtzman et al. 2019, arXiv:1904.09751).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.core.errors import MlxtuneError
from mlxtune.serving.protocol import Sampling

_ODD = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: seeds that are neighbours have keys that are not
_NUCLEUS = 1e-3  # mass: how far the border of the nucleus may move without anybody's knowing


@dataclass(frozen=True)
class Choice:
    """A token and its margin: by how much scores would have to move for another to be chosen. 0 where that is not known."""

    token: int
    margin: float


def choose(scores: mx.array, wishes: Sequence[Sampling], seeds: Sequence[int], positions: Sequence[int]) -> list[Choice]:
    """For each row of ``scores`` ``(rows, vocabulary)``, float32, the next token.

    ``positions`` are how many tokens each answer has already. Raises ``MlxtuneError`` where the model gives no numbers.
    """
    rows = scores.shape[0]
    if all(wish.temperature == 0 for wish in wishes):
        return _greedy(scores)
    found: list[Choice] = []
    for row in range(rows):
        one = scores[row : row + 1]
        wish = wishes[row]
        found += _greedy(one) if wish.temperature == 0 else [_drawn(one, wish, seeds[row], positions[row])]
    return found


def _greedy(scores: mx.array) -> list[Choice]:
    """The best token of each row, and how far it is ahead of the second."""
    best = mx.argmax(scores, axis=-1, keepdims=True)
    top = mx.take_along_axis(scores, best, axis=-1)
    second = mx.where(mx.arange(scores.shape[-1]) == best, -mx.inf, scores).max(axis=-1, keepdims=True)
    mx.eval(best, top, second)
    tops, margins = np.array(top)[:, 0], np.array(top - second)[:, 0]
    if not np.isfinite(tops).all():
        raise MlxtuneError("The model computes no numbers, so its answers would be invented.", mend="Is the adapter whole?")
    tokens: list[int] = np.array(best)[:, 0].tolist()
    return [Choice(token, float(margin)) for token, margin in zip(tokens, margins, strict=True)]


def _drawn(scores: mx.array, wish: Sampling, seed: int, position: int) -> Choice:
    """A draw from one row of scores."""
    key: Any = mx.random.key((seed * _ODD + position) % 2**64)
    noisy = scores / wish.temperature + mx.random.gumbel(scores.shape, key=key)
    if wish.top_p == 1:
        (found,) = _greedy(noisy)
        return Choice(found.token, found.margin * wish.temperature)
    order = mx.argsort(-scores, axis=-1)
    mass = mx.softmax(mx.take_along_axis(scores, order, axis=-1) / wish.temperature, axis=-1, precise=True)
    before = mx.put_along_axis(mx.zeros_like(mass), order, mx.cumsum(mass, axis=-1) - mass, axis=-1)  # of likelier tokens
    (wide,) = _greedy(mx.where(before < wish.top_p + _NUCLEUS, noisy, -mx.inf))
    (close,) = _greedy(mx.where(before < wish.top_p, noisy, -mx.inf))
    reached: Any = before[0, close.token].item()
    certain = wide.token == close.token and reached < wish.top_p - _NUCLEUS
    return Choice(close.token, wide.margin * wish.temperature if certain else 0.0)
