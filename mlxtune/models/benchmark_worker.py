"""Benchmark MLX on this machine. The child process of ``planning.benchmark``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from mlxtune.core.child_process import Request, serve
from mlxtune.models.cpu import blas
from mlxtune.planning.benchmark import Measurement, Size

if TYPE_CHECKING:
    import mlx.core as mx
    import mlx.nn as nn

_MODELS: dict[Size, dict[str, int]] = {
    "tiny": {"layers": 2, "hidden": 64, "mlp": 128, "heads": 4, "kv_heads": 2, "vocab": 512},
    "small": {"layers": 8, "hidden": 512, "mlp": 1408, "heads": 8, "kv_heads": 4, "vocab": 16_000},
    "medium": {"layers": 16, "hidden": 1024, "mlp": 2816, "heads": 16, "kv_heads": 8, "vocab": 32_000},
}
_MATMUL: dict[Size, int] = {"tiny": 64, "small": 1024, "medium": 2048}  # width of the square matrices
_ROWS, _TOKENS = 4, 128  # rows in a training batch, tokens per row
_PROMPT, _DECODED = 64, 16  # tokens
_RANK = 8


def _median_seconds(fn: Callable[[], Any], minimum: float) -> tuple[float, int]:
    """Return the median time of ``fn`` over at least ``minimum`` seconds after a warmup, and the number of repetitions."""
    import mlx.core as mx

    mx.eval(fn())
    times: list[float] = []
    while sum(times) < minimum or not times:
        start = time.perf_counter()
        mx.eval(fn())
        times.append(time.perf_counter() - start)
    return statistics.median(times), len(times)


def run(request: Request) -> list[tuple[Any, ...]]:
    """Return the measurements as tuples of ``Measurement`` fields."""
    size, seconds = request.params["size"], request.params["seconds"]
    blas.preload()
    import mlx.core as mx

    from mlxtune.models.cpu import exp
    from mlxtune.models.load import default_compute

    on_gpu = default_compute() == "native"
    dtype = mx.bfloat16 if on_gpu else mx.float32
    model = _random_model(_MODELS[size], dtype)
    if not on_gpu:
        exp.install()
    measurements: list[Measurement] = []
    steps: list[tuple[str, Callable[[], list[Measurement]]]] = [
        ("matrix multiplication", lambda: _matmuls(_MATMUL[size], seconds, on_gpu)),
        ("attention", lambda: [_attention(seconds, dtype)]),
        ("generation", lambda: [_decoding(model, seconds)]),
        ("a training step", lambda: _training(model, _MODELS[size]["vocab"], seconds)),
    ]
    for index, (name, measure) in enumerate(steps):
        request.progress((f"benchmarking {name}", index / (len(steps) + 1)))
        measurements += measure()
    return [astuple(measurement) for measurement in measurements]


def _matmuls(n: int, seconds: float, on_gpu: bool) -> list[Measurement]:
    import mlx.core as mx

    results = []
    for name, dtype in (("float32", mx.float32), ("bfloat16", mx.bfloat16)):
        width = n if on_gpu or dtype == mx.float32 else min(n, 512)  # bfloat16 is slow on a CPU
        a = mx.random.normal((width, width)).astype(dtype)
        mx.eval(a)
        took, count = _median_seconds(lambda a=a: a @ a, seconds)  # type: ignore[misc]
        results.append(Measurement(f"matmul {name}", 2 * width**3 / took / 1e9, "GFLOP/s", f"{width}×{width}, median of {count}"))
    weights = mx.quantize(mx.random.normal((n, n)), group_size=64, bits=4)
    x = mx.random.normal((32, n))
    mx.eval(weights, x)
    quantized_matmul: Callable[..., mx.array] = mx.quantized_matmul
    took, count = _median_seconds(lambda: quantized_matmul(x, *weights, transpose=True, group_size=64, bits=4), seconds)
    detail = f"32×{n} times {n}×{n}, median of {count}"
    return [*results, Measurement("matmul 4-bit", 2 * 32 * n**2 / took / 1e9, "GFLOP/s", detail)]


def _attention(seconds: float, dtype: mx.Dtype) -> Measurement:
    import mlx.core as mx

    heads, tokens, width = 8, 512, 64
    queries, keys, values = (mx.random.normal((1, heads, tokens, width)).astype(dtype) for _ in range(3))
    mx.eval(queries, keys, values)
    fast: Any = mx.fast
    took, count = _median_seconds(
        lambda: fast.scaled_dot_product_attention(queries, keys, values, scale=width**-0.5, mask="causal"), seconds
    )
    flops = 2 * heads * tokens**2 * width  # two matrix multiplications, half masked
    detail = f"{heads} heads, {tokens} tokens, causal, {_name(dtype)}, median of {count}"
    return Measurement("attention", flops / took / 1e9, "GFLOP/s", detail)


def _decoding(model: nn.Module, seconds: float) -> Measurement:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

    caches = make_prompt_cache(model)
    mx.eval(model(mx.arange(1, _PROMPT + 1)[None], cache=caches))

    def decode() -> mx.array:
        token = mx.array([[1]])
        for _ in range(_DECODED):
            token = mx.argmax(model(token, cache=caches)[:, -1:], axis=-1)
            mx.eval(token)
        trim_prompt_cache(caches, _DECODED)
        return token

    took, count = _median_seconds(decode, seconds)
    detail = f"{_describe(model)}, one sequence after {_PROMPT} tokens, median of {count}"
    return Measurement("generation", _DECODED / took, "tokens/s", detail)


def _training(model: nn.Module, vocab: int, seconds: float) -> list[Measurement]:
    """Measure LoRA training steps on full rows, and their peak memory."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    from mlxtune.models import lora
    from mlxtune.models.head import split_head
    from mlxtune.recipe import AdapterSection

    description = _describe(model)
    lora.add(model, AdapterSection(rank=_RANK, alpha=2 * _RANK), seed=0)
    model.train()
    parts = split_head(model)
    optimizer = optim.AdamW(learning_rate=1e-5)
    tokens = mx.random.randint(0, vocab, (_ROWS, _TOKENS + 1))

    def loss() -> mx.array:
        hidden = parts.backbone(tokens[:, :-1], None)
        return -parts.logp(hidden.reshape(-1, hidden.shape[-1]), tokens[:, 1:].reshape(-1)).mean()

    loss_and_gradients = nn.value_and_grad(model, loss)

    def step() -> Any:
        value, gradients = loss_and_gradients()
        optimizer.update(model, gradients)
        return value, model.trainable_parameters(), optimizer.state

    mx.reset_peak_memory()
    took, count = _median_seconds(step, seconds)
    detail = f"{description}, LoRA rank {_RANK}, {_ROWS} rows of {_TOKENS} tokens, median of {count}"
    return [
        Measurement("training", _ROWS * _TOKENS / took, "tokens/s", detail),
        Measurement("training memory", mx.get_peak_memory() / 2**20, "MiB", "MLX's peak in these steps, weights included"),
    ]


def _random_model(shape: dict[str, int], dtype: mx.Dtype) -> nn.Module:
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(0)
    model = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=shape["hidden"],
            num_hidden_layers=shape["layers"],
            intermediate_size=shape["mlp"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["kv_heads"],
            rms_norm_eps=1e-5,
            vocab_size=shape["vocab"],
            tie_word_embeddings=True,
        )
    )
    model.set_dtype(dtype)
    model.freeze()
    mx.eval(model.parameters())
    return model


def _describe(model: nn.Module) -> str:
    from mlx.utils import tree_flatten

    arrays = [array for _, array in tree_flatten(model.parameters())]
    return f"random Llama, {sum(array.size for array in arrays) / 1e6:,.1f}M parameters, {_name(arrays[0].dtype)}"


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


if __name__ == "__main__":
    sys.exit(serve({"run": run}))
