"""CPU versions of attention and SwiGLU, built on a faster exponential, and of 16-bit quantized matrix multiplication.

MLX's exponential takes 8 to 12 ns per element on x86 and is accurate to 4e-6; ``expm1`` takes less than half of that and is
accurate to within the last bit or two. For non-positive arguments, ``exp(x) = 1 / (1 + expm1(-x))`` is equally accurate (an
overflow correctly gives 0), and the sigmoid is ``1 / (2 + expm1(-x))``. Attention and SwiGLU are built on these, each with a
custom gradient that saves only what it needs. 16-bit arrays are computed in float32 and rounded once, which takes a sixth of the
time of MLX's own 16-bit functions.

MLX's own CPU kernel for quantized matrices accumulates in 16 bits, so it is less accurate than a GPU, and it takes 30 (bf16) to 100 (f16)
times as long as dequantizing the weights for each product and calling BLAS. The native path on a CPU uses :func:`quantized_matmul`, which
accumulates in float32, as GPU kernels do: it exists for tests and ``mlxtune demo --native``.
"""

import sys
from typing import Any

import mlx.core as mx
from mlx_lm.models import activations

QUERY_BLOCK = 128  # queries per attention block
MIN_DECODE_ROWS = 16  # for fewer single-token rows, the extra operations cost more than the exponentials save

_FAST: Any = mx.fast
_MLX_ATTENTION: Any = mx.fast.scaled_dot_product_attention
_MX: Any = mx
_MLX_QUANTIZED_MATMUL: Any = mx.quantized_matmul
_MLX_SWIGLU: Any = activations.swiglu


def install() -> None:
    """Make every architecture that mlx-lm has loaded use the functions below. Safe to call again."""
    _replace_swiglu(_MLX_SWIGLU, swiglu)
    _FAST.scaled_dot_product_attention = attention
    _MX.quantized_matmul = quantized_matmul


def uninstall() -> None:
    _replace_swiglu(swiglu, _MLX_SWIGLU)
    _FAST.scaled_dot_product_attention = _MLX_ATTENTION


def _replace_swiglu(old: Any, new: Any) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("mlx_lm.models.") and getattr(module, "swiglu", None) is old:
            module.swiglu = new  # type: ignore[attr-defined]


def exp_of_negative(x: mx.array) -> mx.array:
    """Return ``exp(-x)`` for non-negative float32 ``x``. On a GPU this is MLX's own exponential."""
    return mx.exp(-x) if mx.default_device().type == mx.DeviceType.gpu else 1 / (1 + mx.expm1(x))


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Return ``silu(gate) * x`` for arrays of the same shape."""
    product: Any = _swiglu(gate.astype(mx.float32), x.astype(mx.float32))
    return product.astype(mx.result_type(gate, x))


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return gate / (2 + mx.expm1(-gate)) * x


@_swiglu.vjp
def _(primals: Any, cotangent: Any, output: Any) -> Any:
    gate, x = primals
    sigmoid = 1 / (2 + mx.expm1(-gate))  # recomputed: saving it would add a fifth to a layer's activations
    silu = gate * sigmoid
    return cotangent * x * (sigmoid + silu - silu * sigmoid), cotangent * silu


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, mask: Any = None, sinks: Any = None, **options: Any
) -> mx.array:
    """Replace ``mx.fast.scaled_dot_product_attention``.

    Queries are ``(batch, heads, tokens, width)``, keys and values ``(batch, kv heads, positions, width)``; ``mask`` is
    ``"causal"`` (aligned at the bottom right), a bool array or None. Query heads that share a key head become rows of one
    matrix multiplication, so keys and values are not repeated.
    """
    batch, heads, tokens, width = queries.shape
    groups, positions = keys.shape[1], keys.shape[2]
    plain_mask = mask is None or isinstance(mask, str) or mask.dtype == mx.bool_
    if queries.dtype != mx.float32 and plain_mask and sinks is None:
        arrays = (array.astype(mx.float32) for array in (queries, keys, values))
        return attention(*arrays, scale=scale, mask=mask, **options).astype(queries.dtype)
    if (tokens == 1 and batch < MIN_DECODE_ROWS) or not plain_mask or sinks is not None:
        return _MLX_ATTENTION(queries, keys, values, scale=scale, mask=mask, sinks=sinks, **options)
    if isinstance(mask, str) and tokens >= 2 * QUERY_BLOCK:  # a block of queries needs no keys after its end
        parts = []
        for start in range(0, tokens, QUERY_BLOCK):
            end = positions - tokens + min(start + QUERY_BLOCK, tokens)
            block = queries[:, :, start : start + QUERY_BLOCK]
            parts.append(attention(block, keys[:, :, :end], values[:, :, :end], scale=scale, mask=mask))
        return mx.concatenate(parts, axis=2)
    repeats = heads // groups
    rows = (queries * scale).reshape(batch, groups, repeats * tokens, width)
    if isinstance(mask, str):
        mask = mx.arange(positions) <= mx.arange(positions - tokens, positions)[:, None]
    if mask is None:
        visible = mx.array(True)
    elif mask.ndim == 4 and mask.shape[1] == heads > 1:
        visible = mx.broadcast_to(mask, (*mask.shape[:2], tokens, positions)).reshape(-1, groups, repeats * tokens, positions)
    elif tokens == 1 and mask.ndim == 4 and mask.shape[1] == 1:
        visible = mask
    else:
        visible = mx.concatenate([mx.broadcast_to(mask, (*mask.shape[:-2], tokens, positions))] * repeats, axis=-2)
    outputs: Any = _attention(rows, keys, values, visible)
    return outputs[0].reshape(batch, heads, tokens, values.shape[-1])


@mx.custom_function
def _attention(rows: mx.array, keys: mx.array, values: mx.array, visible: mx.array) -> tuple[mx.array, mx.array]:
    scores = mx.where(visible, rows @ keys.swapaxes(-1, -2), mx.finfo(mx.float32).min)
    powers = exp_of_negative(scores.max(axis=-1, keepdims=True) - scores)
    weights = powers * (1 / powers.sum(axis=-1, keepdims=True))
    return weights @ values, weights


@_attention.vjp
def _(primals: Any, cotangents: Any, outputs: Any) -> Any:
    (rows, keys, values, visible), cotangent, (out, weights) = primals, cotangents[0], outputs
    d_scores = weights * (cotangent @ values.swapaxes(-1, -2) - (cotangent * out).sum(axis=-1, keepdims=True))
    return (d_scores @ keys, d_scores.swapaxes(-1, -2) @ rows, weights.swapaxes(-1, -2) @ cotangent, mx.zeros_like(visible))


def quantized_matmul(
    x: mx.array, w: mx.array, scales: mx.array, biases: mx.array | None = None, transpose: bool = True, **options: Any
) -> mx.array:
    """Replace ``mx.quantized_matmul`` for 16-bit ``x``; the gradient is with respect to ``x`` only, because ``w`` is frozen."""
    if x.dtype == mx.float32 or x.dtype != scales.dtype or biases is None:
        product: mx.array = _MLX_QUANTIZED_MATMUL(x, w, scales, biases, transpose=transpose, **options)
        return product
    groups = scales.astype(mx.float32), biases.astype(mx.float32)

    def multiply(x: mx.array, transpose: bool) -> mx.array:
        dense = mx.dequantize(w, *groups, **options)
        return (x.astype(mx.float32) @ (dense.T if transpose else dense)).astype(x.dtype)

    function: Any = mx.custom_function(lambda x: multiply(x, transpose))
    function.vjp(lambda primals, cotangent, output: multiply(cotangent, not transpose))
    result: mx.array = function(x)
    return result
