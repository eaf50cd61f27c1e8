"""Benchmark MLX and training on this machine. The child process of ``planning.benchmark``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.child_process import Request, serve
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning.benchmark import Measurement
from mlxtune.planning.speed import step_flops
from mlxtune.planning.workload import BatchShape
from mlxtune.recipe import AdapterSection, DataSection, ModelSection, Recipe, TrainingSection

if TYPE_CHECKING:
    import mlx.core as mx

    from mlxtune.models.load import LoadedModel


@dataclass(frozen=True)
class BenchmarkSize:
    """The shape of a random Llama, and the sizes of the operations measured with it."""

    name: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocab: int
    matmul: int  # width of the square matrices
    attention: int  # tokens

    @property
    def layer_parameters(self) -> int:
        """The number of parameters in the layers' matrices."""
        head_dim = self.hidden // self.heads
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.kv_heads * head_dim
        return self.layers * (attention + 3 * self.hidden * self.mlp)


_TINY = BenchmarkSize("tiny", 2, 64, 128, 4, 2, 512, matmul=64, attention=64)
_MINI = BenchmarkSize("mini", 6, 256, 768, 4, 2, 8_000, matmul=512, attention=256)
_SMALL = BenchmarkSize("small", 8, 512, 1408, 8, 4, 16_000, matmul=1024, attention=512)
_MEDIUM = BenchmarkSize("medium", 16, 1024, 2816, 16, 8, 32_000, matmul=2048, attention=1024)
_LARGE = BenchmarkSize("large", 16, 2048, 8192, 32, 8, 32_000, matmul=4096, attention=2048)

_ROWS, _TOKENS, _TRAINED = 8, 256, 64  # in a training batch: rows, tokens per row, trained tokens per row
_PROMPT, _DECODED = 64, 16  # tokens
_SLOW_BFLOAT16 = 512  # width of bfloat16 matrices on a CPU, which has no fast kernels for them


def run(request: Request) -> list[tuple[Any, ...]]:
    """Return the measurements as tuples of ``Measurement`` fields."""
    quick, seconds = request.params["quick"], request.params["seconds"]
    blas.preload()
    from mlxtune.models.load import on_gpu

    sizes = [_TINY] if quick else [_SMALL, _MEDIUM, _LARGE] if on_gpu() else [_MINI, _SMALL, _MEDIUM]
    measurements: list[Measurement] = []
    for index, size in enumerate(sizes):
        request.progress((f"benchmarking the {size.name} size", index / (len(sizes) + 1)))
        measurements += _measure(size, seconds, on_gpu=on_gpu())
    return [astuple(measurement) for measurement in measurements]


def _measure(size: BenchmarkSize, seconds: float, *, on_gpu: bool) -> Iterator[Measurement]:
    for name, operations, compute, detail in _operations(size, on_gpu=on_gpu):
        took, count = _median_seconds(compute, seconds)
        yield Measurement(name, size.name, operations / took / 1e9, "GFLOP/s", f"{detail}, median of {count}")
    loaded = _random_model(size, native=on_gpu)
    yield _decoding(size, loaded, seconds)
    yield from _training(size, loaded)


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


def _operations(size: BenchmarkSize, *, on_gpu: bool) -> Iterator[tuple[str, int, Callable[[], Any], str]]:
    """Yield the name of each operation, how many floating-point operations it takes, the computation, and its description."""
    import mlx.core as mx

    n, dtype = size.matmul, mx.bfloat16 if on_gpu else mx.float32
    shown = str(dtype).rpartition(".")[2]
    for name, kind, width in (("float32", mx.float32, n), ("bfloat16", mx.bfloat16, n if on_gpu else min(n, _SLOW_BFLOAT16))):
        a = mx.random.normal((width, width)).astype(kind)
        mx.eval(a)
        yield f"matmul {name}", 2 * width**3, partial(mx.matmul, a, a), f"{width}×{width}"
    weights = mx.quantize(mx.random.normal((n, n)).astype(dtype), group_size=64, bits=4)
    x = mx.random.normal((32, n)).astype(dtype)
    mx.eval(weights, x)
    multiply = partial(mx.quantized_matmul, x, *weights, transpose=True, group_size=64, bits=4)
    yield "matmul 4-bit", 2 * 32 * n**2, multiply, f"32×{n} times {n}×{n}, {shown}"
    heads, tokens, width = 8, size.attention, 64
    arrays = [mx.random.normal((1, heads, tokens, width)).astype(dtype) for _ in range(3)]
    mx.eval(arrays)
    attention = partial(mx.fast.scaled_dot_product_attention, *arrays, scale=width**-0.5, mask="causal")
    operations = 2 * heads * tokens**2 * width  # two matrix multiplications, half masked
    yield "attention", operations, attention, f"{heads} heads, {tokens} tokens, causal, {shown}"


def _decoding(size: BenchmarkSize, loaded: LoadedModel, seconds: float) -> Measurement:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

    model: Any = loaded.model
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
    detail = f"{loaded.description}, one sequence after {_PROMPT} tokens, median of {count}"
    return Measurement("generation", size.name, _DECODED / took, "tokens/s", detail)


def _training(size: BenchmarkSize, loaded: LoadedModel) -> list[Measurement]:
    """Measure a LoRA training step with the training worker's own code."""
    from mlxtune.training.probe import measure_steps

    rows, tokens, trained = (_ROWS, _TOKENS, _TRAINED) if size is not _TINY else (2, 32, 8)
    recipe = Recipe(
        "bench", ModelSection(loaded.source.name), DataSection("none"), adapter=AdapterSection(), training=TrainingSection()
    )
    cost = measure_steps(loaded, recipe, BatchShape(rows, tokens, 0, rows * trained))
    rate = step_flops(size.layer_parameters, size.vocab * size.hidden, trained / tokens) * rows * tokens / cost["step"] / 1e9
    detail = f"{loaded.description}, LoRA rank {recipe.adapter.rank}, {rows} rows of {tokens} tokens"
    return [
        Measurement("training", size.name, rows * tokens / cost["step"], "tokens/s", detail),
        Measurement("training rate", size.name, rate, "GFLOP/s", "of these steps; calibrates mlxtune plan", size.layer_parameters),
        Measurement("training memory", size.name, cost["peak"] / 2**20, "MiB", "MLX's peak in these steps, weights included"),
    ]


def _random_model(size: BenchmarkSize, *, native: bool) -> LoadedModel:
    """Return a random model as ``models.load`` would: 4-bit weights in bf16 on a GPU, float32 on a CPU."""
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs

    from mlxtune.models import load
    from mlxtune.models.cpu import exp

    mx.random.seed(0)
    config: dict[str, Any] = {
        "model_type": "llama", "hidden_size": size.hidden, "num_hidden_layers": size.layers, "intermediate_size": size.mlp,
        "num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads, "rms_norm_eps": 1e-5, "vocab_size": size.vocab,
        "tie_word_embeddings": True,
    }  # fmt: skip
    model: Any = Model(ModelArgs.from_dict(config))
    if native:
        model.set_dtype(mx.bfloat16)
        load.quantize_weights(model, 4)
    else:
        exp.install()
    model.freeze()
    mx.eval(model.parameters())
    weights = "4-bit, bfloat16" if native else "float32"
    description = f"random Llama, {(size.layer_parameters + size.vocab * size.hidden) / 1e6:,.0f}M parameters, {weights}"
    source = ModelFolder(f"random {size.name} model", Path(), config, "")
    tokenizer: Any = None
    return load.LoadedModel(source, model, tokenizer, "native" if native else "float32", description, 0.0)


if __name__ == "__main__":
    sys.exit(serve({"run": run}))
