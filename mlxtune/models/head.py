"""Log-probabilities at the trained positions only, without ever holding ``(tokens, vocabulary)``.

A language model is a backbone and a head. The loss needs the head where a token trains, and nowhere else. With a frozen head
one pass is enough: for position i with hidden state h and target t,

    log p = h·W[t] − logsumexp(h·Wᵀ)        d log p / d h = W[t] − softmax(h·Wᵀ)·W

so the forward pass can compute the gradient row by row, in chunks, and let the logits go (the idea of Liger's and Cut
Cross-Entropy's fused losses: arXiv:2410.10989, arXiv:2411.09009).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

CHUNK = 128  # positions whose logits exist at one time

LogProbabilities = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class Split:
    """A model in two.

    ``backbone(tokens, cache)`` gives hidden states ``(batch, tokens, width)``, ``logits(hidden)`` the scores of the vocabulary, and
    ``logp(hidden, targets)`` log-probabilities ``(positions,)``. ``warning`` is what to tell the user if the quick way did not agree
    with the model's own forward pass: then ``backbone`` is the whole model and its "hidden states" are the logits.
    """

    backbone: Callable[..., mx.array]
    logits: Callable[[mx.array], mx.array]
    logp: LogProbabilities
    warning: str = ""


def split(model: nn.Module) -> Split:
    """``model`` as backbone and head, checked against the model's own forward pass; where they differ, the plain way."""
    backbone = getattr(model, "model", None)
    head = getattr(model, "lm_head", None) or getattr(backbone, "embed_tokens", None)
    if (
        backbone is not None
        and isinstance(head, nn.Linear | nn.QuantizedLinear | nn.Embedding | nn.QuantizedEmbedding)
        and "bias" not in head
    ):
        logp = one_pass(head)
        tokens = mx.array([[1, 5, 2, 9, 4, 7, 3, 8]])
        targets = mx.array([5, 2, 9, 4, 7, 3, 8])
        try:
            quick = logp(backbone(tokens[:, :-1])[0], targets)
            plain = plain_logp(model(tokens[:, :-1])[0], targets)
            if mx.allclose(quick, plain, rtol=1e-2, atol=1e-2 * magnitude(plain)).item():
                return Split(backbone, _logits(head), logp)
        except (ValueError, TypeError, AttributeError):
            pass  # an unusual backbone: the plain way below is always right
    return Split(
        lambda tokens, cache=None: model(tokens, cache),
        lambda logits: logits,
        plain_logp,
        "this architecture's head is not a plain one: computing it in full",
    )


def _logits(head: nn.Module) -> Callable[[mx.array], mx.array]:
    arrays, product, *_ = _linear(head)
    return lambda hidden: product(hidden, *arrays)


def plain_logp(logits: mx.array, targets: mx.array) -> mx.array:
    """Log-probability ``(positions,)`` of ``targets`` under ``logits`` ``(positions, vocabulary)``, in float32."""
    logits = logits.astype(mx.float32)
    return mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] - mx.logsumexp(logits, axis=-1)


def one_pass(head: nn.Module, chunk: int = CHUNK) -> LogProbabilities:
    """A differentiable ``logp(hidden (positions, width), targets (positions,)) -> (positions,)`` for a frozen linear head."""
    arrays, product, back, rows = _linear(head)

    @mx.custom_function
    def both(hidden: mx.array, targets: mx.array, *weights: mx.array) -> tuple[mx.array, mx.array]:
        logps: list[mx.array] = []
        slopes: list[mx.array] = []
        before: list[mx.array] = []
        for start in range(0, hidden.shape[0], chunk):
            part, wanted = hidden[start : start + chunk], targets[start : start + chunk]
            if before:  # one chunk after the other, or all logits are alive together
                part = mx.depends([part], before)[0]
            logits = product(part, *weights).astype(mx.float32)
            top = logits.max(axis=-1, keepdims=True)
            power = mx.exp(logits - top)
            total = power.sum(axis=-1, keepdims=True)
            logp = (mx.take_along_axis(logits, wanted[:, None], axis=-1) - top - mx.log(total))[:, 0]
            slope = rows(wanted, *weights) - back((power / total).astype(part.dtype), *weights)
            logps.append(logp)
            slopes.append(slope)
            before = [logp, slope]
        return mx.concatenate(logps), mx.concatenate(slopes)

    @both.vjp
    def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
        hidden, *rest = primals
        return ((cotangents[0][:, None] * outputs[1]).astype(hidden.dtype), *(mx.zeros_like(array) for array in rest))

    def logp(hidden: mx.array, targets: mx.array) -> mx.array:
        outputs: Any = both(hidden, targets, *arrays)
        return outputs[0]

    return logp


def _linear(head: nn.Module) -> tuple[list[mx.array], Callable[..., mx.array], Callable[..., mx.array], Callable[..., mx.array]]:
    """The head's arrays W, and with them ``x Wᵀ``, ``g W`` and ``W[t]``."""
    if not isinstance(head, nn.QuantizedLinear | nn.QuantizedEmbedding):
        return [head.weight], lambda x, w: x @ w.T, lambda g, w: g @ w, lambda t, w: w[t]
    how: dict[str, Any] = {"group_size": head.group_size, "bits": head.bits, "mode": head.mode}
    product: Callable[..., mx.array] = mx.quantized_matmul
    arrays = [array for array in (head.weight, head.scales, head.get("biases")) if array is not None]
    return (
        arrays,
        lambda x, *w: product(x, *w, transpose=True, **how),
        lambda g, *w: product(g, *w, transpose=False, **how),
        lambda t, *w: mx.dequantize(*(array[t] for array in w), **how),
    )


def magnitude(values: mx.array) -> float:
    """The largest absolute value, at least 1: what an absolute tolerance is relative to."""
    return max(1.0, float(np.abs(np.array(values.astype(mx.float32))).max()))
