"""What MLX computes slowly on a CPU, written with the operations that are fast there.

MLX's exponential costs 8 to 12 ns an element on x86 and is right to 4e-6; ``expm1`` costs less than half and is right to the last
bit but one. Where the argument is not positive, ``exp(x) = 1 / (1 + expm1(-x))`` is as good (an overflow gives the right 0), and
the sigmoid is ``1 / (2 + expm1(-x))``. Attention and SwiGLU are built on these, each with a gradient of its own that keeps only what it needs.
Dense float32 only; everything else goes to MLX's own functions.
"""

from __future__ import annotations

import sys
from typing import Any

import mlx.core as mx
from mlx_lm.models import activations

BLOCK = 128  # queries that are looked at together
FEW = 16  # rows that say a token each: for fewer, what is saved in exponentials is lost in the number of operations

_FAST: Any = mx.fast
_MLX_ATTENTION: Any = mx.fast.scaled_dot_product_attention
_MLX_SWIGLU: Any = activations.swiglu


def adopt() -> None:
    """Let every architecture that mlx-lm has loaded use the functions below; harmless when called again."""
    _replace(_MLX_SWIGLU, swiglu)
    _FAST.scaled_dot_product_attention = attention


def release() -> None:
    """Put MLX's own functions back."""
    _replace(swiglu, _MLX_SWIGLU)
    _FAST.scaled_dot_product_attention = _MLX_ATTENTION


def _replace(old: Any, new: Any) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("mlx_lm.models.") and getattr(module, "swiglu", None) is old:
            module.swiglu = new  # type: ignore[attr-defined]


def exp_of_negative(x: mx.array) -> mx.array:
    """``exp(-x)`` for float32 ``x`` that is nowhere negative; on a GPU, MLX's own."""
    return mx.exp(-x) if mx.default_device().type == mx.DeviceType.gpu else 1 / (1 + mx.expm1(x))


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """``silu(gate) * x`` for arrays of one shape."""
    if gate.dtype != mx.float32 or x.dtype != mx.float32:
        return _MLX_SWIGLU(gate, x)
    product: Any = _swiglu(gate, x)
    return product


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return gate / (2 + mx.expm1(-gate)) * x


@_swiglu.vjp
def _(primals: Any, slope: Any, output: Any) -> Any:
    gate, x = primals
    sigmoid = 1 / (2 + mx.expm1(-gate))  # again: keeping it would be a fifth of what a layer keeps
    silu = gate * sigmoid
    return slope * x * (sigmoid + silu - silu * sigmoid), slope * silu


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any = None, sinks: Any = None, **more: Any
) -> mx.array:
    """``mx.fast.scaled_dot_product_attention``: queries ``(batch, heads, tokens, width)``, keys and values
    ``(batch, kv heads, positions, width)``, mask ``"causal"`` (aligned at the bottom right), bool or nothing.

    The query heads of one key head become rows of one matrix product, so nothing is repeated.
    """
    batch, heads, tokens, width = queries.shape
    groups, positions = keys.shape[1], keys.shape[2]
    dense = all(array.dtype == mx.float32 for array in (queries, keys, values))
    plain = mask is None or isinstance(mask, str) or mask.dtype == mx.bool_
    if (tokens == 1 and batch < FEW) or not dense or not plain or sinks is not None:
        return _MLX_ATTENTION(queries, keys, values, scale=scale, mask=mask, sinks=sinks, **more)
    if isinstance(mask, str) and tokens >= 2 * BLOCK:  # a block of queries need not look at keys that come after all of it
        parts = []
        for start in range(0, tokens, BLOCK):
            upto = positions - tokens + min(start + BLOCK, tokens)
            block = queries[:, :, start : start + BLOCK]
            parts.append(attention(block, keys[:, :, :upto], values[:, :, :upto], scale=scale, mask=mask))
        return mx.concatenate(parts, axis=2)
    repeats = heads // groups
    rows = (queries * scale).reshape(batch, groups, repeats * tokens, width)
    if isinstance(mask, str):
        mask = mx.arange(positions) <= mx.arange(positions - tokens, positions)[:, None]
    if mask is None:
        seen = mx.array(True)
    elif mask.ndim == 4 and mask.shape[1] == heads > 1:
        seen = mx.broadcast_to(mask, (*mask.shape[:2], tokens, positions)).reshape(-1, groups, repeats * tokens, positions)
    elif tokens == 1 and mask.ndim == 4 and mask.shape[1] == 1:
        seen = mask
    else:
        seen = mx.concatenate([mx.broadcast_to(mask, (*mask.shape[:-2], tokens, positions))] * repeats, axis=-2)
    outputs: Any = _attention(rows, keys, values, seen)
    return outputs[0].reshape(batch, heads, tokens, values.shape[-1])


@mx.custom_function
def _attention(rows: mx.array, keys: mx.array, values: mx.array, seen: mx.array) -> tuple[mx.array, mx.array]:
    scores = mx.where(seen, rows @ keys.swapaxes(-1, -2), mx.finfo(mx.float32).min)
    power = exp_of_negative(scores.max(axis=-1, keepdims=True) - scores)
    weights = power * (1 / power.sum(axis=-1, keepdims=True))
    return weights @ values, weights


@_attention.vjp
def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
    (rows, keys, values, seen), slope, (out, weights) = primals, cotangents[0], outputs
    onto_scores = weights * (slope @ values.swapaxes(-1, -2) - (slope * out).sum(axis=-1, keepdims=True))
    return (
        onto_scores @ keys,
        onto_scores.swapaxes(-1, -2) @ rows,
        weights.swapaxes(-1, -2) @ slope,
        mx.zeros_like(seen),
    )
