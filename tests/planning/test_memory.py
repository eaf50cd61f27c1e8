"""The memory estimate compared with hand-computed sums, and how it depends on the recipe."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from tiny_architectures import make
from tiny_model import make_tiny

from mlxtune.models import head, lora
from mlxtune.models.cpu import exp, streams
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.planning import activations, memory, shapes
from mlxtune.planning.activations import Kernels, LayerActivations
from mlxtune.planning.machine import CACHE_LIMIT, COMPUTE_VARIABLE
from mlxtune.planning.memory import MemoryEstimate
from mlxtune.planning.workload import BatchShape, Workload
from mlxtune.present.words import WORDS
from mlxtune.recipe import Recipe
from mlxtune.training import frozen_cache, optimizer, setup
from mlxtune.training.layer_stack import LayerStack

from .conftest import recipe


def work(*batches: BatchShape, frozen: int = 0) -> Workload:
    return Workload(2, 2, 0, 0, 0, 0, frozen, 0, batches)


def cost(
    shape, machine, *overrides: str, batch: BatchShape = BatchShape(8, 256, 0, 600), frozen: int = 0, traces: int = 0,
    cached: bool = False, checkpointed: bool = False, **options: Any,
) -> MemoryEstimate:  # fmt: skip
    given = replace(work(batch, frozen=frozen), traces=traces)
    return memory.estimate(shape, recipe(*overrides), given, machine, cached=cached, checkpointed=checkpointed, **options)


def saved(shape, settings: Recipe, kernels: Kernels, index: int = 0) -> LayerActivations:
    """Return what the layer at ``index`` saves."""
    targets = [weight for weight in shape.adapter_targets(settings.adapter) if weight.layer == index]
    return activations.layer_activations(shape, shape.layers[index], targets, settings.adapter, kernels)


def test_activations_of_a_llama_layer(read) -> None:
    width, inner, heads, key = 256, 512, 4, 128
    layer = saved(read(layers=1), recipe("adapter.rank=8"), activations.CPU)
    norms, entering = 2 * width, 2 * width + width + inner  # q, k and v share an input, as do gate and up
    attention = 2 * width + 2 * key
    gate = activations.CPU.silu * inner
    assert layer.position == 4 * (norms + entering + attention + gate + 7 * 8)
    assert layer.score == 4 * heads
    batch = BatchShape(3, 10, 5, 1)
    assert layer.nbytes(batch) == layer.position * 35 + layer.score * (3 * 10 * 15 + 5 * 5) + 2 * 4 * key * 3 * 5


def test_a_cpu_computes_norms_attention_and_silu_in_float32_on_a_16_bit_model(read) -> None:
    width, inner, heads, key = 256, 512, 4, 128
    shape = read(layers=1, kind="BF16")
    native, on_cpu = (saved(shape, recipe("adapter.rank=8"), kernels) for kernels in (activations.NATIVE, activations.CPU_NATIVE))
    adapters = 4 * (2 * width + width + inner + 7 * 8)  # q, k and v share an input in float32, as do gate and up
    assert native.position == 2 * (2 * width + width + 2 * key + 4 * inner) + adapters
    assert on_cpu.position == 4 * (2 * width + 2 * width + 2 * key + 3 * inner) + adapters
    assert (native.score, on_cpu.score) == (2 * heads, 4 * heads)
    batch = BatchShape(3, 10, 5, 1)
    masks = 10 * 15 + 5 * 5 // 3
    assert native.nbytes(batch) == native.position * 35 + native.score * (3 * 10 * 15 + 5 * 5) + masks + 2 * 2 * key * 3 * 5


def test_the_head_allocates_two_chunks_ahead_over_all_streams(read, machine) -> None:
    """MLX limits the operations that it schedules ahead for all streams together."""
    shape, factors = read(vocabulary=100_000), memory.Coefficients()
    assert machine.cores == 2

    def logits(rows: int, trained: int) -> float:
        batch = BatchShape(rows, 500, 0, trained)
        estimate = cost(shape, machine, "adapter.layers=1", batch=batch)
        assert estimate.moment == "head"
        return (estimate.head - trained * 256 * 8) / (4 * shape.vocabulary)

    assert logits(1, 40) == pytest.approx(40 * factors.logits)
    assert logits(1, 100) == pytest.approx(64 * factors.logits + 36 * factors.ahead)
    assert logits(2, 100) == pytest.approx(100 * factors.logits)
    assert logits(2, 400) == pytest.approx(128 * factors.logits + 128 * factors.ahead)


def test_attention_scores_in_query_blocks() -> None:
    assert activations.NATIVE.scores(300, 40) == 300 * 340
    assert activations.CPU.scores(100, 40) == 100 * 140
    assert activations.CPU.scores(300, 40) == 128 * (40 + 128) + 128 * (40 + 256) + 44 * (40 + 300)


def test_attention_adapters_save_less_and_dora_saves_more(read, machine) -> None:
    shape = read()
    lora_all = cost(shape, machine)
    assert cost(shape, machine, 'adapter.targets="attention"').activations < lora_all.activations
    assert cost(shape, machine, 'adapter.kind="dora"').activations > lora_all.activations
    assert cost(shape, machine, "adapter.dropout=0.1").activations > lora_all.activations


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon", "lion"])
def test_adapter_and_optimizer_are_what_mlx_allocates(tmp_path, machine, name, kind) -> None:
    source = resolve(str(make_tiny(tmp_path / "model")))
    overrides = f'training.optimizer="{name}"', f'adapter.kind="{kind}"', "adapter.rank=4"
    given = recipe(*overrides)
    model, _ = load_model(source.folder)
    lora.add(model, given.adapter, 1)
    trained_optimizer: optim.Optimizer = optimizer.make(given.training, given.adapter)
    trained_optimizer.init(model.trainable_parameters())
    estimate = cost(shapes.read_shapes(source.folder, source.config), machine, *overrides)
    assert estimate.adapter == sum(array.nbytes for array in lora.adapter_arrays(model).values())
    assert estimate.optimizer == pytest.approx(sum(array.nbytes for _, array in tree_flatten(trained_optimizer.state)), abs=64)


def test_only_adapted_layers_save_activations(read, machine) -> None:
    shape, batch = read(layers=8), BatchShape(8, 256, 0, 600)
    own = saved(shape, recipe(), activations.CPU, 7).nbytes(batch)
    all_layers, half = (cost(shape, machine, f"adapter.layers={count}", batch=batch) for count in (8, 4))
    assert all_layers.moment == half.moment == "backward"
    assert all_layers.activations - half.activations == 4 * own


def test_checkpointing_saves_the_inputs_of_layers(read, machine) -> None:
    shape = read(layers=8)
    plain, checkpointed = cost(shape, machine), cost(shape, machine, checkpointed=True)
    assert checkpointed.peak < plain.peak / 2
    assert (plain.rest, checkpointed.rest) == (plain.rest, plain.rest)


def test_at_the_bottom_each_stream_has_the_gradients_of_all_layers(read, machine) -> None:
    """With checkpointing and few tokens, the gradients of the adapter outweigh the inputs of the layers."""
    shape, batch = read(layers=8), BatchShape(2, 64, 0, 40)
    checkpointed = cost(shape, machine, "adapter.rank=16", batch=batch, checkpointed=True)
    assert checkpointed.moment == "bottom"
    assert checkpointed.gradients == 2 * checkpointed.adapter  # one per row, on two cores
    assert cost(shape, machine, "adapter.rank=1", checkpointed=True).moment == "backward"


def test_native_products_on_a_cpu_make_packed_weights_dense(read, machine, metal) -> None:
    """All streams share them. As measured, those of the head exist twice."""
    shape = read(layers=2, bits=4, kind="BF16", vocabulary=20_000)
    batch, kernels = BatchShape(1, 64, 0, 40), activations.NATIVE
    on_cpu, on_gpu = (cost(shape, where, batch=batch, kernels=kernels) for where in (machine, metal))
    assert on_cpu.moment == on_gpu.moment == "head"
    matrices = sum(weight.numbers for layer in shape.layers for weight in layer if weight.is_matrix)
    assert on_cpu.step - on_gpu.step == 4 * (2 * shape.embedding.numbers + matrices)
    assert on_cpu.loading == on_cpu.weights + on_cpu.adapter + 4 * 4 * shape.embedding.numbers


def test_loading_unpacks_one_matrix_at_a_time(tmp_path: Path, machine) -> None:
    source = resolve(str(make_tiny(tmp_path / "model", bits=4)))
    shape = shapes.read_shapes(source.folder, source.config)
    packed = [weight for weight in shape.weights if weight.bits]
    assert packed
    estimate = cost(shape, machine)
    largest = max(4 * weight.numbers - weight.nbytes for weight in packed)
    assert estimate.loading == estimate.weights + sum(weight.nbytes for weight in packed) + largest


def test_loading_reads_about_50_weights_ahead_of_their_conversion(read, machine, metal) -> None:
    shape = read(layers=8, kind="BF16", vocabulary=20_000)
    inner = [weight.nbytes for layer in shape.layers for weight in layer]
    assert len(inner) > memory.READ_AHEAD
    read_ahead = shape.embedding.nbytes + sum(inner[: memory.READ_AHEAD])
    on_cpu, on_gpu, quantized = cost(shape, machine), cost(shape, metal), cost(shape, metal, "model.quantize=4")
    assert on_cpu.loading - on_cpu.weights == read_ahead == quantized.loading - quantized.weights
    assert on_gpu.loading == on_gpu.weights  # as saved


def test_every_moment_is_named_in_a_plan(read, machine) -> None:
    step = memory._Step(
        read(layers=8), recipe("adapter.layers=2"), machine, True, False, 1.0, memory.Coefficients(), activations.CPU
    )
    moments = step._moments(BatchShape(2, 64, 0, 40), work(BatchShape(2, 64, 0, 40), frozen=1000))
    assert set(WORDS.peaks) == {*moments, "loading"}


def test_the_estimate_is_of_the_largest_batch(read, machine) -> None:
    small, large = BatchShape(8, 64, 0, 100), BatchShape(2, 512, 0, 100)
    estimate = memory.estimate(read(), recipe(), work(small, large), machine, cached=False, checkpointed=False)
    assert estimate.batch == large


def test_the_cache_of_frozen_layers_is_bounded(read, machine) -> None:
    shape = read(layers=8)
    few = cost(shape, machine, "adapter.layers=2", cached=True, frozen=1000)
    assert few.frozen == 1000 * 256 * 4
    assert cost(shape, machine, "adapter.layers=2", cached=True, frozen=10**9).frozen == machine.limit // memory.CACHED


def test_a_gpu_computes_on_saved_weights_and_keeps_free_buffers_up_to_the_limit(read, machine, metal) -> None:
    shape = read(bits=4, kind="BF16")
    on_cpu, on_gpu = cost(shape, machine), cost(shape, metal)
    assert on_gpu.weights == sum(weight.nbytes for weight in shape.weights) < on_cpu.weights / 6
    assert (on_gpu.buffers, on_cpu.buffers) == (on_gpu.step - on_gpu.rest, memory.BUFFERS)
    assert cost(shape, metal, batch=BatchShape(8, 2048, 0, 600)).buffers == CACHE_LIMIT


def test_the_process_and_its_compiled_steps_count(read, metal) -> None:
    plain, compiled = (cost(read(), metal, batch=BatchShape(1, 8, 0, 1), traces=traces) for traces in (0, 10))
    assert compiled.total - plain.total == 10 * memory.TRACE
    assert plain.total == plain.peak + plain.buffers + memory.PROCESS


def test_quantization_on_load_shrinks_weights_on_a_gpu_only(read, machine, metal) -> None:
    shape = read(kind="BF16")
    assert cost(shape, metal, "model.quantize=4").weights < cost(shape, metal).weights / 3
    assert cost(shape, machine, "model.quantize=4").weights == cost(shape, machine).weights


def test_auto_checkpoints_exactly_where_the_margin_is_missing(read, machine) -> None:
    shape, batch = read(layers=8), work(BatchShape(8, 256, 0, 600))
    plain = cost(shape, machine)
    need = plain.step + plain.buffers + plain.process
    for limit, wanted in ((need / (1 - memory.MARGIN) + 1024, False), (need / (1 - memory.MARGIN) - 1024, True)):
        small = type(machine)("Linux", "a chip", 2, "cpu", int(limit))
        assert memory.needs_checkpointing(shape, recipe(), batch, small, cached=False) is wanted


def test_rows_that_do_not_fit_are_computed_in_segments(read, machine) -> None:
    shape, batch = read(), BatchShape(1, 30_000, 0, 600)
    long = work(batch)

    def step(segment: int) -> MemoryEstimate:
        return cost(shape, machine, batch=batch, checkpointed=True, segment=segment)

    peaks = {segment: step(segment).step for segment in (0, *memory.SEGMENTS)}
    assert [*peaks.values()] == sorted(peaks.values(), reverse=True)
    kept = 2 * 30_000 * sum(2 * 4 * 128 for _ in shape.layers)  # keys, values, and their gradients
    assert all(kept < peaks[segment] < peaks[0] for segment in memory.SEGMENTS)
    for segment, larger in zip(memory.SEGMENTS[1:], memory.SEGMENTS, strict=False):
        limit = (step(segment).step + step(segment).buffers + step(segment).process) / (1 - memory.MARGIN) + 1
        small = replace(machine, limit=round(limit))
        assert memory.needed_segment(shape, recipe(), long, small) == segment < larger
    assert memory.needed_segment(shape, recipe(), long, replace(machine, limit=2**60)) == 0
    assert memory.needed_segment(shape, recipe(), long, replace(machine, limit=kept)) == 0  # refused


@pytest.mark.parametrize(
    ("wish", "epochs", "plain", "expected"),
    [
        ("auto", 2, True, True),
        ("auto", 1, True, False),
        ("true", 1, True, True),
        ("false", 2, True, False),
        ("true", 2, False, False),
    ],
)
def test_frozen_layers_are_cached_if_epochs_reuse_them(read, wish, epochs, plain, expected) -> None:
    given = recipe("adapter.layers=2", f"training.cache_frozen={wish}")
    run = Workload(2, epochs, 0, 0, 0, 0, 0, 0, ())
    assert memory.uses_frozen_cache(read(), given, run, plain=plain) is expected


def test_constants_match_those_of_training() -> None:
    assert memory.CHUNK == head.CHUNK
    assert memory.GROUP == frozen_cache.GROUP_TOKENS
    assert memory.CACHED == setup.CACHE_MEMORY_DIVISOR
    assert memory.MAX_STREAMS == streams.MAX_STREAMS
    assert activations.CPU.block == exp.QUERY_BLOCK


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_native_attention_saves_one_score_in_the_models_dtype(tmp_path: Path, dtype: str, size: int) -> None:
    """The peak of MLX's own attention in training, which is not fused, grows with the square of a row's length."""
    folder = make(tmp_path, "smollm2", dtype=dtype, num_hidden_layers=4)
    shape = shapes.read_shapes(folder, json.loads((folder / "config.json").read_text()))
    settings = recipe("adapter.rank=4")
    layer = saved(shape, settings, activations.NATIVE)
    assert layer.score == size * shape.heads
    peaks = step_peaks(folder, "native", settings, 128, 384, 640)
    measured = (peaks[2] - 2 * peaks[1] + peaks[0]) / (2 * 256**2)  # bytes per score, from the second difference
    assert (shape.depth + memory.Coefficients().backward) * layer.score == pytest.approx(measured, rel=0.2)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("family", "compute"), [("gemma2", "native"), ("smollm2", "native"), ("gemma2", "float32")])
def test_a_gelu_gate_saves_more_than_a_swiglu_gate(tmp_path: Path, family: str, compute: str) -> None:
    """The peak grows with the width of the MLP, by what the layers save and the topmost one needs for its gradients."""
    settings = recipe("adapter.rank=4", 'adapter.targets="attention"', 'adapter.layers="all"')
    measured, expected = [], []
    for inner in (1024, 2048):
        folder = make(tmp_path / str(inner), family, dtype="float32", num_hidden_layers=8, intermediate_size=inner)
        shape = shapes.read_shapes(folder, json.loads((folder / "config.json").read_text()))
        layer = saved(shape, settings, activations.NATIVE if compute == "native" else activations.CPU, 1)
        expected.append((shape.depth + memory.Coefficients().backward) * layer.nbytes(BatchShape(1, 128, 0, 1)))
        measured += step_peaks(folder, compute, settings, 128)
    assert expected[1] - expected[0] == pytest.approx(measured[1] - measured[0], rel=0.21)  # 0.2 above for MLX's own GELU


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kernels", [activations.CPU_NATIVE, activations.NATIVE], ids=["cpu", "mlx"])
def test_a_compiled_16_bit_step_saves_what_its_layers_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: Kernels
) -> None:
    """Compiling merges operations of both passes, so that gates save more, and adapters share their converted inputs."""
    settings = recipe("adapter.rank=2", 'adapter.layers="all"')
    folders = [make(tmp_path / str(depth), "smollm2", bits=0, dtype="bfloat16", num_hidden_layers=depth) for depth in (2, 12)]
    if kernels.upcast:
        monkeypatch.setenv(COMPUTE_VARIABLE, "native")
    few, many = (compiled_step_peak(folder, settings, kernels) for folder in folders)
    shape = shapes.read_shapes(folders[1], json.loads((folders[1] / "config.json").read_text()))
    layer = saved(shape, settings, kernels, 1)
    norms = 0 if kernels.upcast else 2 * 2 * shape.width * 256  # on a CPU, MLX's norms save their inputs in float32
    assert 10 * (layer.nbytes(BatchShape(1, 256, 0, 1)) + norms) == pytest.approx(many - few, rel=0.1)


def compiled_step_peak(folder: Path, settings: Recipe, kernels: Kernels) -> int:
    """Return the peak bytes of a compiled step on one row of 256 tokens, with the kernels of a CPU or with MLX's own."""
    model, step = adapted(folder, "native", settings, uses_own_kernels=kernels.upcast)
    compiled: Any = mx.compile(step, inputs=[model.state], outputs=[model.state])
    return peak_of(compiled, mx.zeros((1, 256), mx.int32))


def step_peaks(folder: Path, compute: str, settings: Recipe, *widths: int) -> list[int]:
    """Return the peak bytes of a step on one row of each of ``widths`` tokens."""
    _, step = adapted(folder, compute, settings, uses_own_kernels=compute != "native")
    return [peak_of(step, mx.zeros((1, width), mx.int32)) for width in widths]


def adapted(folder: Path, compute: Any, settings: Recipe, *, uses_own_kernels: bool) -> tuple[nn.Module, Any]:
    """Return the model in ``folder`` with an adapter, and a function that computes its gradients."""
    model = load(resolve(str(folder)), compute).model
    if not uses_own_kernels:
        exp.uninstall()
    lora.add(model, settings.adapter, seed=1)
    stack = LayerStack(model, head.split_head(model))
    return model, nn.value_and_grad(model, lambda tokens: stack.hidden_states(tokens).astype(mx.float32).sum())


def peak_of(step: Callable[[mx.array], Any], tokens: mx.array) -> int:
    """Return the bytes that ``step`` needs: the lowest of three peaks, because MLX frees later on a busy machine.

    A memory limit of 0 keeps it from allocating ahead.
    """
    peaks, limit = [], mx.set_memory_limit(0)
    for _ in range(3):
        mx.clear_cache()
        start = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(step(tokens))
        peaks.append(mx.get_peak_memory() - start)
    mx.set_memory_limit(limit)
    return min(peaks)
