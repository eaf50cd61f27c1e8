"""The native path on the GPU in bf16 and f16 agrees with float32 on the CPU, within the tolerance of 16-bit arithmetic."""

import dataclasses
from pathlib import Path

import loops
import mlx.core as mx
import pytest
from listener import Listener
from tiny_architectures import make

from mlxtune.models import load
from mlxtune.models.resolve import resolve

pytestmark = pytest.mark.slow

TOKENS = mx.array([[70, 71, 72, 73, 74, 75, 76, 77]])
SECTION = dataclasses.replace(loops.SECTION, epochs=1)
dtypes = pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["bf16", "f16"])


def relative_error(array: mx.array, reference: mx.array) -> float:
    difference = array.astype(mx.float32) - reference
    return float((mx.linalg.norm(difference) / mx.linalg.norm(reference)).item())


def epsilon(dtype: mx.Dtype) -> float:
    """The spacing of numbers around 1."""
    return float(mx.finfo(dtype).eps)


@pytest.mark.skipif(not mx.metal.is_available(), reason="needs a Metal GPU, and this machine has none")
def test_the_gpu_is_the_native_path_with_its_own_memory_limit() -> None:
    assert load.default_compute() == "native"
    assert 2**30 < load.memory_limit(fallback=1) < mx.device_info()["memory_size"]


@dtypes
def test_products_and_attention(dtype: mx.Dtype) -> None:
    mx.random.seed(0)
    x, w = mx.random.normal((16, 256)).astype(dtype), mx.random.normal((128, 256)).astype(dtype)
    weights = mx.quantize(w, group_size=64, bits=4)
    queries, keys, values = (mx.random.normal((1, 4, 32, 64)).astype(dtype) for _ in range(3))
    results = [
        x @ w.T,
        mx.quantized_matmul(x, *weights, transpose=True, group_size=64, bits=4),
        mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask="causal"),
    ]
    mx.eval(results)
    with mx.stream(mx.cpu):
        x, w, queries, keys, values = (array.astype(mx.float32) for array in (x, w, queries, keys, values))
        dense = mx.dequantize(*(array.astype(mx.float32) if array.dtype == dtype else array for array in weights), 64, 4)
        expected = [x @ w.T, x @ dense.T, mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.125, mask="causal")]
        mx.eval(expected)
        for result, reference in zip(results, expected, strict=True):
            assert relative_error(result, reference) < 4 * epsilon(dtype)


@dtypes
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_logits_of_a_4_bit_model(tmp_path: Path, dtype: mx.Dtype, family: str) -> None:
    source = resolve(str(make(tmp_path, family)))
    native, dense = load.load(source, "native"), load.load(source, "float32")
    native.model.set_dtype(dtype)
    logits = native.model(TOKENS)
    mx.eval(logits)
    assert logits.dtype == dtype
    with mx.stream(mx.cpu):
        assert relative_error(logits, dense.model(TOKENS)) < 32 * epsilon(dtype)


@pytest.mark.parametrize("compiled", [False, True])
def test_training_losses(tmp_path: Path, tiny: Path, compiled: bool, gpu: mx.Device) -> None:
    native = loops.make(tiny, tmp_path / "native", SECTION, loops.Ways(dropout=0.0, half=True, compiled=compiled))
    listener = Listener()
    native.run(listener)
    mx.set_default_device(mx.cpu)
    exact, reference = loops.make(tiny, tmp_path / "exact", SECTION, loops.Ways(dropout=0.0)), Listener()
    exact.run(reference)
    assert [event["loss"] for event in listener.of("step")] == pytest.approx(
        [event["loss"] for event in reference.of("step")], rel=0.01
    )
    assert listener.of("validation")[-1]["loss"] == pytest.approx(reference.of("validation")[-1]["loss"], rel=0.02)


def test_a_stopped_run_resumes_with_the_same_weights(tmp_path: Path, tiny: Path) -> None:
    loops.assert_resumes(tiny, tmp_path, SECTION, loops.Ways(half=True, compiled=True), at=2)
