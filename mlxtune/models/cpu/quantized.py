"""A CPU version of quantized matrix multiplication in 16 bits that accumulates in float32, as GPU kernels do.

MLX's own CPU kernel accumulates in 16 bits, so it is less accurate than a GPU, and it takes 30 (bf16) to 100 (f16) times as long as
dequantizing the weights for each product and calling BLAS. The native path on a CPU uses this: it exists for tests and
``mlxtune demo --native``.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

_MX: Any = mx
_MLX_QUANTIZED_MATMUL: Any = mx.quantized_matmul


def install() -> None:
    """Make every module that calls ``mx.quantized_matmul`` use the function below. Safe to call again."""
    _MX.quantized_matmul = quantized_matmul


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
