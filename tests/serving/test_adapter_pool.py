import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from served import SECTIONS, write_adapter
from tiny_architectures import make

from mlxtune.core.errors import ModelError
from mlxtune.models import lora
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve
from mlxtune.recipe import AdapterSection
from mlxtune.serving.adapter_pool import AdapterPool

TOKENS = mx.array([[70, 71, 72, 73, 74]])


@pytest.fixture
def pool(tiny_loaded: LoadedModel) -> Iterator[AdapterPool]:
    """A pool for the tiny model, without an active adapter before and after."""
    adapter_pool = AdapterPool(tiny_loaded.model)
    yield adapter_pool
    adapter_pool.activate(None)


def fresh(base: str, folder: Path | None) -> mx.array:
    """Return the logits of a freshly loaded model."""
    model = load(resolve(base)).model
    if folder:
        lora.load(model, folder)
    return model(TOKENS)


def arrays(pool: AdapterPool) -> dict[str, int]:
    """Return the identity of each array in the base."""
    pool.activate(None)
    return {name: id(array) for name, array in tree_flatten(pool.model.parameters())}


def test_fifty_random_swaps_are_exact_and_do_not_change_the_base(
    tiny: Path, pool: AdapterPool, tiny_adapters: dict[str, Path]
) -> None:
    expected = {name: fresh(str(tiny), folder) for name, folder in tiny_adapters.items()} | {"": fresh(str(tiny), None)}
    assert len({tuple(array[0, -1].tolist()) for array in expected.values()}) == len(expected)
    before = arrays(pool)
    order = random.Random(1)
    for _ in range(50):
        name = order.choice(list(expected))
        pool.activate(pool.load(tiny_adapters[name]) if name else None)
        assert mx.array_equal(pool.model(TOKENS), expected[name]), name
    assert arrays(pool) == before


def test_adapters_cost_only_their_own_bytes(pool: AdapterPool, tiny_adapters: dict[str, Path]) -> None:
    pool.activate(pool.load(tiny_adapters["all"]))
    before = mx.get_active_memory()
    for name in ("dora", "wide"):
        pool.activate(pool.load(tiny_adapters[name]))
        mx.eval(pool.model(TOKENS))
    pool.activate(None)
    files = sum((tiny_adapters[name] / lora.WEIGHTS).stat().st_size for name in ("all", "dora", "wide"))
    assert mx.get_active_memory() - before < files


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["native", "float32"])
@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma3"])
def test_other_architectures_and_quantized_bases_swap_exactly(tmp_path: Path, name: str, compute) -> None:
    base = make(tmp_path / "model", name)
    sections = [AdapterSection(rank=4), AdapterSection(rank=2, kind="dora", targets=["q_proj"], layers=1)]
    if name == "qwen3_moe":
        sections.append(AdapterSection(rank=4, targets=["q_proj", "switch_mlp.up_proj"]))
    folders = [write_adapter(base, tmp_path / f"adapter{seed}", section, seed) for seed, section in enumerate(sections)]
    pool = AdapterPool(load(resolve(str(base)), compute).model)
    base_logits = pool.model(TOKENS)
    for folder in [*folders, *folders]:
        pool.activate(pool.load(folder))
        model = load(resolve(str(base)), compute).model
        lora.load(model, folder)
        assert mx.array_equal(pool.model(TOKENS), model(TOKENS))
    pool.activate(None)
    assert mx.array_equal(pool.model(TOKENS), base_logits)


def test_loading_an_adapter_does_not_deactivate_the_active_one(pool: AdapterPool, tiny_adapters: dict[str, Path]) -> None:
    pool.activate(pool.load(tiny_adapters["all"]))
    before = pool.model(TOKENS)
    pool.load(tiny_adapters["embed"])
    assert mx.array_equal(pool.model(TOKENS), before)


def test_a_changed_file_is_loaded_again(tiny: Path, pool: AdapterPool, tmp_path: Path) -> None:
    folder = write_adapter(tiny, tmp_path / "one", SECTIONS["all"], 1)
    first = pool.load(folder)
    assert pool.load(folder) is first
    write_adapter(tiny, folder, SECTIONS["all"], 2)
    second = pool.load(folder)
    assert second is not first
    pool.activate(second)
    assert mx.array_equal(pool.model(TOKENS), fresh(str(tiny), folder))
    assert pool.adapters == [second]


def _nan_values(folder: Path) -> None:
    arrays: dict[str, mx.array] = mx.load(str(folder / lora.WEIGHTS))  # type: ignore[assignment]
    name = sorted(arrays)[0]
    mx.save_safetensors(str(folder / lora.WEIGHTS), arrays | {name: arrays[name] * float("nan")})


def _module_missing(folder: Path) -> None:
    arrays: dict[str, mx.array] = mx.load(str(folder / lora.WEIGHTS))  # type: ignore[assignment]
    removed = sorted(arrays)[0].rpartition(".")[0]
    mx.save_safetensors(
        str(folder / lora.WEIGHTS), {name: array for name, array in arrays.items() if not name.startswith(f"{removed}.")}
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nan_values, "NaN or infinite"),
        (_module_missing, "has no counterpart"),
        (lambda folder: (folder / lora.CONFIG).write_text("[]"), "JSON object"),
        (lambda folder: (folder / lora.CONFIG).unlink(), "no adapter"),
    ],
)  # fmt: skip
def test_an_invalid_adapter_is_refused_and_the_model_is_unchanged(
    pool: AdapterPool, tiny_adapters: dict[str, Path], tmp_path: Path, damage, message: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_adapters["all"], folder)
    damage(folder)
    pool.activate(pool.load(tiny_adapters["wide"]))
    before = pool.model(TOKENS)
    with pytest.raises(ModelError, match=message):
        pool.load(folder)
    assert mx.array_equal(pool.model(TOKENS), before)


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path, pool: AdapterPool) -> None:
    other = make(tmp_path / "model", "phi3", bits=0)
    folder = write_adapter(other, tmp_path / "adapter", AdapterSection(rank=4, targets=["qkv_proj"]), 1)
    with pytest.raises(ModelError, match=r"does not match this model"):
        pool.load(folder)


def test_the_adapters_used_last_stay_in_memory(
    pool: AdapterPool, tiny_adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxtune.serving.adapter_pool.MAX_ADAPTERS", 2)
    first, second, third = list(tiny_adapters.values())[:3]
    kept = pool.load(first)
    pool.load(second)
    assert pool.load(first) is kept
    assert [kept, pool.load(third)] == pool.adapters
