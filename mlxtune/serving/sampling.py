"""Choose the next token from the logits, and measure its margin.

Temperature 0 is greedy. Otherwise sampling uses the Gumbel-max trick: the token with the largest logit / temperature + noise is a
sample from the softmax, and with noise that depends only on the seed and the position, the sample is reproducible. Only tokens in
the nucleus are considered: the most likely ones, up to a mass of ``top_p`` (arXiv:1904.09751). mlx-lm's samplers use global
RNG state, so their samples depend on the other requests in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.models.generate import nan_error, noise_key
from mlxtune.serving.protocol import Sampling

_MIN = 1e-6  # a temperature or top_p below is greedy: logits / temperature may overflow, and top_p would be zero in float32
_NUCLEUS_TOLERANCE = 1e-3  # how far rounding may move the edge of the nucleus, in probability mass


@dataclass(frozen=True)
class TokenChoice:
    """A token and its margin: how far logits must move for another token to win. 0 if unknown."""

    token: int
    margin: float


Draw = tuple[Sampling, int, int]  # how to sample, the seed, and the number of tokens that the answer already has


def choose_tokens(logits: mx.array, draws: Sequence[Draw]) -> list[TokenChoice]:
    """Choose the next token for each row of float32 ``logits`` ``(rows, vocabulary)``. Raises ``MlxtuneError`` for NaN logits."""
    if all(_is_greedy(sampling) for sampling, *_ in draws):
        return _greedy(logits)
    choices: list[TokenChoice] = []
    for row, draw in enumerate(draws):
        own = logits[row : row + 1]
        choices += _greedy(own) if _is_greedy(draw[0]) else [_sample(own, *draw)]
    return choices


def choose_lazily(logits: mx.array, draws: Sequence[Draw]) -> tuple[mx.array, mx.array]:
    """Return the tokens that :func:`choose_tokens` chooses, ``(rows,)``, and whether each row is finite, both unevaluated."""
    scores = logits
    if not all(_is_greedy(sampling) for sampling, *_ in draws):
        rows = ((logits[row : row + 1], draw) for row, draw in enumerate(draws))
        scores = mx.concatenate([own if _is_greedy(draw[0]) else _scores(own, *draw) for own, draw in rows])
    return mx.argmax(scores, axis=-1), mx.isfinite(logits.max(axis=-1))


def _greedy(logits: mx.array) -> list[TokenChoice]:
    """Return the best token of each row and its lead over the second. Raises ``MlxtuneError`` for NaN logits."""
    best = mx.argmax(logits, axis=-1, keepdims=True)
    top = mx.take_along_axis(logits, best, axis=-1)
    second = mx.where(mx.arange(logits.shape[-1]) == best, -mx.inf, logits).max(axis=-1, keepdims=True)
    mx.eval(best, top, second)
    tops, margins = np.array(top)[:, 0], np.array(top - second)[:, 0]
    if not np.isfinite(tops).all():
        raise nan_error()
    tokens: list[int] = np.array(best)[:, 0].tolist()
    return [TokenChoice(token, float(margin)) for token, margin in zip(tokens, margins, strict=True)]


def _sample(logits: mx.array, sampling: Sampling, seed: int, position: int) -> TokenChoice:
    noisy = _noisy(logits, sampling, seed, position)
    if sampling.top_p == 1:
        (choice,) = _greedy(noisy)
        return TokenChoice(choice.token, choice.margin * sampling.temperature)
    mass_before = _mass_before(logits, sampling)
    (wide,) = _greedy(mx.where(mass_before < sampling.top_p + _NUCLEUS_TOLERANCE, noisy, -mx.inf))
    (close,) = _greedy(mx.where(mass_before < sampling.top_p, noisy, -mx.inf))
    reached: Any = mass_before[0, close.token].item()
    certain = wide.token == close.token and reached < sampling.top_p - _NUCLEUS_TOLERANCE
    return TokenChoice(close.token, wide.margin * sampling.temperature if certain else 0.0)


def _scores(logits: mx.array, sampling: Sampling, seed: int, position: int) -> mx.array:
    """Return values whose largest is the sample from one row of logits."""
    noisy = _noisy(logits, sampling, seed, position)
    return noisy if sampling.top_p == 1 else mx.where(_mass_before(logits, sampling) < sampling.top_p, noisy, -mx.inf)


def _noisy(logits: mx.array, sampling: Sampling, seed: int, position: int) -> mx.array:
    return logits / sampling.temperature + mx.random.gumbel(logits.shape, key=noise_key(seed, position))


def _mass_before(logits: mx.array, sampling: Sampling) -> mx.array:
    """Return the probability of all tokens that are likelier than each."""
    order = mx.argsort(-logits, axis=-1)
    mass = mx.softmax(mx.take_along_axis(logits, order, axis=-1) / sampling.temperature, axis=-1, precise=True)
    return mx.put_along_axis(mx.zeros_like(mass), order, mx.cumsum(mass, axis=-1) - mass, axis=-1)


def _is_greedy(sampling: Sampling) -> bool:
    return min(sampling.temperature, sampling.top_p) < _MIN
