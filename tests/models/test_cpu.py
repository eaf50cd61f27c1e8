"""CPU kernels compared with MLX's attention and SwiGLU, with every kind of mask, and with dequantized products in 16 bits."""

import os
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from waiting import wait_until

from mlxtune.models.cpu import blas, exp

MASKS = {
    "none": None,
    "causal": "causal",
    "tokens": mx.arange(9) <= mx.arange(4, 9)[:, None],
    "rows": mx.array([[[[True] * 9] * 5], [[[False] * 3 + [True] * 6] * 5]]),
    "heads": mx.random.bernoulli(0.7, (2, 6, 5, 9), key=mx.random.key(2)) | (mx.arange(9) == 0),
}


class Library:
    """Stands for OpenBLAS."""

    threads = 2

    def openblas_set_num_threads(self, count: int) -> None:
        self.threads = count


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """The OpenBLAS of a process on two cores."""
    library = Library()
    monkeypatch.setattr(blas.ctypes, "CDLL", lambda name, mode: library)
    monkeypatch.setattr(blas, "_libraries", [])
    monkeypatch.setattr(blas, "_threads", blas._Threads(wanted=2, limit=2))
    monkeypatch.setattr(blas, "_LOAD_INTERVAL", 0.01)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    return library


@pytest.mark.parametrize(("load", "threads"), [(1.0, [2, 2, 1]), (9.0, [1, 1, 1])])
def test_a_busy_machine_gets_fewer_blas_threads(
    library: Library, monkeypatch: pytest.MonkeyPatch, load: float, threads: list[int]
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert blas._load("openblas")
    observed = [library.threads]
    for count in (2, 1):
        blas.set_threads(count)
        observed.append(library.threads)
    assert observed == threads


def test_a_machine_that_becomes_busy_later_gets_fewer_blas_threads(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    load = 1.0
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert blas._load("openblas")
    blas.set_threads(2)
    assert library.threads == 2
    load = 9.0
    wait_until(lambda: library.threads == 1)
    load = 1.0
    blas.set_threads(2)
    assert library.threads == 1  # another number would round differently


@pytest.mark.parametrize("kind", MASKS)
def test_attention_equals_mlx(kind: str) -> None:
    keys = mx.random.split(mx.random.key(0), 4)
    shapes = [(2, 6, 5, 8), (2, 2, 9, 8), (2, 2, 9, 8), (2, 6, 5, 8)]
    *arrays, slope = (mx.random.normal(shape, key=key) * 3 for shape, key in zip(shapes, keys, strict=True))

    def plain(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        k, v = mx.repeat(k, 3, axis=1), mx.repeat(v, 3, axis=1)
        scores = 0.3 * q @ k.swapaxes(-1, -2)
        mask = MASKS[kind]
        if isinstance(mask, str):
            mask = MASKS["tokens"]
        scores = scores if mask is None else mx.where(mask, scores, -1e30)
        return mx.softmax(scores, axis=-1) @ v

    def own(*qkv: mx.array) -> mx.array:
        return exp.attention(*qkv, scale=0.3, mask=MASKS[kind])

    expected, actual = mx.vjp(plain, arrays, [slope]), mx.vjp(own, arrays, [slope])
    for result, reference in zip([*actual[0], *actual[1]], [*expected[0], *expected[1]], strict=True):
        assert mx.allclose(result, reference, rtol=5e-5, atol=5e-5)  # MLX's exponential is accurate to 4e-6
    reference = exp._MLX_ATTENTION(*arrays, scale=0.3, mask=MASKS[kind])
    assert mx.allclose(actual[0][0], reference, rtol=5e-5, atol=5e-5)


def test_swiglu_equals_mlx_also_for_large_values() -> None:
    gate, x = (
        mx.concatenate([mx.random.normal((50,)) * 5, mx.array([-200.0, -100.0, -90.0, 90.0, 200.0, 0.0])]),
        mx.full((56,), 1.5),
    )
    slope = mx.random.normal((56,))
    expected = mx.vjp(lambda g, x: nn.silu(g) * x, [gate, x], [slope])
    actual = mx.vjp(exp.swiglu, [gate, x], [slope])
    for own, reference in zip([*actual[0], *actual[1]], [*expected[0], *expected[1]], strict=True):
        assert mx.allclose(own, reference, rtol=1e-5, atol=1e-7)


def test_the_exponential_is_accurate_down_to_the_smallest_values() -> None:
    x = -np.exp(np.linspace(-10, 4.45, 5000)).astype(np.float32)
    assert np.allclose(np.array(exp.exp_of_negative(mx.array(-x))), np.exp(x.astype(np.float64)), rtol=2e-7, atol=0)
    assert exp.exp_of_negative(mx.array([mx.inf, 200.0, 0.0])).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_half_precision_is_rounded_once(dtype: mx.Dtype) -> None:
    half = mx.random.normal((1, 2, 4, 8)).astype(dtype)
    exact = half.astype(mx.float32)
    for function in (partial(exp.attention, scale=1.0, mask="causal"), lambda gate, x, _: exp.swiglu(gate, x)):
        result = function(half, half, half)
        assert result.dtype == dtype
        assert mx.array_equal(result, function(exact, exact, exact).astype(dtype))


def test_long_rows_in_blocks_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = mx.random.split(mx.random.key(1), 3)
    arrays = [
        mx.random.normal(shape, key=key) for shape, key in zip([(2, 4, 11, 8), (2, 2, 14, 8), (2, 2, 14, 8)], keys, strict=True)
    ]

    def compute() -> list[mx.array]:
        outputs, slopes = mx.vjp(lambda *qkv: exp.attention(*qkv, scale=0.3, mask="causal"), arrays, [mx.ones((2, 4, 11, 8))])
        return [*outputs, *slopes]

    whole = compute()
    monkeypatch.setattr(exp, "QUERY_BLOCK", 4)
    for own, reference in zip(compute(), whole, strict=True):
        assert mx.allclose(own, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padded", [True, False])
def test_decoding_many_rows_equals_mlx(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, positions = exp.MIN_DECODE_ROWS, 23
    queries, keys, values = (
        mx.random.normal((rows, heads, length, 8)) for heads, length in ((6, 1), (2, positions), (2, positions))
    )
    mask = (mx.arange(positions) >= mx.arange(rows)[:, None])[:, None, None] if padded else None
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask)
    monkeypatch.setattr(exp, "_MLX_ATTENTION", lambda *_, **__: pytest.fail("went to MLX"))
    actual = exp.attention(queries, keys, values, scale=0.3, mask=mask)
    assert mx.allclose(actual, expected, rtol=1e-4, atol=1e-6).item()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("transpose", [True, False])
def test_quantized_products_are_rounded_once(dtype: mx.Dtype, transpose: bool) -> None:
    mx.random.seed(0)
    parts = mx.quantize(mx.random.normal((96, 64)).astype(dtype), 32, 4)
    dense = mx.dequantize(parts[0], *(array.astype(mx.float32) for array in parts[1:]), 32, 4)
    matrix = dense.T if transpose else dense
    x = mx.random.normal((7, matrix.shape[0])).astype(dtype)
    cotangent = mx.random.normal((7, matrix.shape[1])).astype(dtype)

    def product(x: mx.array) -> mx.array:
        return exp.quantized_matmul(x, *parts, transpose=transpose, group_size=32, bits=4)

    for run in (product, mx.compile(product)):
        (out,), (gradient,) = mx.vjp(run, [x], [cotangent])
        assert mx.array_equal(out, (x.astype(mx.float32) @ matrix).astype(dtype))
        assert mx.array_equal(gradient, (cotangent.astype(mx.float32) @ matrix.T).astype(dtype))
