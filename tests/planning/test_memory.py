"""The memory estimate: what is counted, against sums done by hand, and how it moves with the recipe."""

from __future__ import annotations

import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from tiny_model import make_tiny

from mlxtune.models import cpu, head, lanes, lora
from mlxtune.models.resolve import resolve
from mlxtune.planning import activations, memory, shapes
from mlxtune.planning.workload import Batch, Workload
from mlxtune.training import assemble, frozen, optimizer

from .conftest import recipe


def work(*batches: Batch, kept: int = 0) -> Workload:
    return Workload(2, 2, 0, 0, 0, 0, kept, 0, batches)


def cost(shape, machine, *overrides: str, batch: Batch = Batch(8, 256, 0, 600), cached=False, checkpointed=False, kept=0):
    return memory.estimate(
        shape, recipe(*overrides), work(batch, kept=kept), machine, cached=cached, checkpointed=checkpointed
    )  # fmt: skip


def test_a_layer_of_a_llama_keeps_what_its_gradients_ask_for(read) -> None:
    width, inner, heads, key = 256, 512, 4, 128
    found = read(layers=1)
    section = recipe("adapter.rank=8").adapter
    made = activations.layer(found, found.layers[0], found.adapted(section), section, activations.CPU)
    norms, entering = 2 * width, 2 * width + width + inner  # q, k and v share what enters them, gate and up too
    attention = 2 * width + 2 * key
    gate = activations.CPU.gated * inner
    assert made.position == 4 * (norms + entering + attention + gate + 7 * 8)
    assert made.score == 4 * heads
    batch = Batch(3, 10, 5, 1)
    assert made.kept(batch) == made.position * 35 + made.score * (3 * 10 * 15 + 5 * 5) + 2 * 4 * key * 3 * 5


def test_blocks_of_queries_keep_scores_with_the_keys_they_may_see() -> None:
    assert activations.NATIVE.scores(300, 40) == 300 * 340
    assert activations.CPU.scores(100, 40) == 100 * 140
    assert activations.CPU.scores(300, 40) == 128 * (40 + 128) + 128 * (40 + 256) + 44 * (40 + 300)


def test_adapters_on_attention_alone_keep_less_and_dora_keeps_more(read, machine) -> None:
    found = read()
    lora_all = cost(found, machine)
    assert cost(found, machine, 'adapter.targets="attention"').activations < lora_all.activations
    assert cost(found, machine, 'adapter.kind="dora"').activations > lora_all.activations
    assert cost(found, machine, "adapter.dropout=0.1").activations > lora_all.activations


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon", "lion"])
def test_adapter_and_optimizer_are_what_mlx_allocates(tmp_path, machine, name, kind) -> None:
    source = resolve(str(make_tiny(tmp_path / "model")))
    given = recipe(f'training.optimizer="{name}"', f'adapter.kind="{kind}"', "adapter.rank=4")
    model, _ = load_model(source.folder)
    lora.add(model, given.adapter, 1)
    made: optim.Optimizer = optimizer.make(given.training, given.adapter)
    made.init(model.trainable_parameters())
    found = memory.estimate(
        shapes.read(source.folder, source.config), given, work(Batch(1, 8, 0, 1)), machine, cached=False, checkpointed=False
    )
    assert found.adapter == sum(array.nbytes for array in lora.weights(model).values())
    assert found.optimizer == pytest.approx(sum(array.nbytes for _, array in tree_flatten(made.state)), abs=64)


def test_every_adapted_layer_keeps_its_own_and_frozen_ones_keep_nothing(read, machine) -> None:
    found, section, batch = read(layers=8), recipe().adapter, Batch(8, 256, 0, 600)
    own = activations.layer(found, found.layers[7], found.adapted(section)[-7:], section, activations.CPU).kept(batch)
    all_layers, half = (cost(found, machine, f"adapter.layers={count}", batch=batch) for count in (8, 4))
    assert all_layers.moment == half.moment == "backward"
    assert all_layers.activations - half.activations == 4 * own


def test_checkpointing_keeps_the_inputs_of_layers(read, machine) -> None:
    found = read(layers=8)
    plain, kept = cost(found, machine), cost(found, machine, checkpointed=True)
    assert kept.peak < plain.peak / 2
    assert (plain.rest, kept.rest) == (plain.rest, plain.rest)


def test_the_worst_batch_is_the_one_that_needs_most(read, machine) -> None:
    small, large = Batch(8, 64, 0, 100), Batch(2, 512, 0, 100)
    found = memory.estimate(read(), recipe(), work(small, large), machine, cached=False, checkpointed=False)
    assert found.batch == large


def test_the_cache_of_frozen_layers_is_bounded(read, machine) -> None:
    found = read(layers=8)
    few = cost(found, machine, "adapter.layers=2", cached=True, kept=1000)
    assert few.frozen == 1000 * 256 * 4
    assert cost(found, machine, "adapter.layers=2", cached=True, kept=10**9).frozen == machine.limit // memory.CACHED


def test_a_gpu_computes_as_saved_and_gives_its_buffers_back(read, machine, metal) -> None:
    found = read(bits=4, kind="BF16")
    on_cpu, on_gpu = cost(found, machine), cost(found, metal)
    assert on_gpu.weights == sum(one.saved for one in found.weights) < on_cpu.weights / 6
    assert (on_gpu.buffers, on_cpu.buffers) == (0, memory.BUFFERS)


def test_quantising_on_load_shrinks_the_weights_of_a_gpu_only(read, machine, metal) -> None:
    found = read(kind="BF16")
    assert cost(found, metal, "model.quantize=4").weights < cost(found, metal).weights / 3
    assert cost(found, machine, "model.quantize=4").weights == cost(found, machine).weights


def test_auto_checkpoints_exactly_where_the_plain_step_leaves_no_margin(read, machine) -> None:
    found, batch = read(layers=8), work(Batch(8, 256, 0, 600))
    plain = memory.estimate(found, recipe(), batch, machine, cached=False, checkpointed=False)
    need = plain.step + plain.buffers
    for limit, wanted in ((need / (1 - memory.MARGIN) + 1024, False), (need / (1 - memory.MARGIN) - 1024, True)):
        small = type(machine)("Linux", "a chip", 2, "cpu", int(limit))
        assert memory.wants_checkpoint(found, recipe(), batch, small, cached=False) is wanted


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
def test_frozen_layers_are_cached_where_an_epoch_comes_back_to_them(read, wish, epochs, plain, expected) -> None:
    given = recipe("adapter.layers=2", f"training.cache_frozen={wish}")
    run = Workload(2, epochs, 0, 0, 0, 0, 0, 0, ())
    assert memory.caches(read(), given, run, plain=plain) is expected


def test_numbers_taken_from_the_engine_are_the_engines() -> None:
    assert memory.CHUNK == head.CHUNK
    assert memory.GROUP == frozen.GROUP_TOKENS
    assert memory.CACHED == assemble.CACHED
    assert memory.LANES == lanes.MOST
    assert activations.CPU.block == cpu.BLOCK
