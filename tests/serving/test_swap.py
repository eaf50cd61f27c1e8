"""Hot swap: what is computed is what a fresh load computes, the base is never touched, and nothing is left behind."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from architectures import make
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from served import SECTIONS, write_adapter

from mlxtune.core.errors import ModelError
from mlxtune.models import lora
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve
from mlxtune.recipe import AdapterSection
from mlxtune.serving.swap import Rack

TOKENS = mx.array([[70, 71, 72, 73, 74]])


@pytest.fixture
def rack(tiny_loaded: LoadedModel) -> Iterator[Rack]:
    """The tiny model, which is the base alone before and after."""
    made = Rack(tiny_loaded.model)
    yield made
    made.put(None)


def fresh(base: str, folder: Path | None) -> mx.array:
    """What a model that was loaded for this alone computes."""
    model = load(resolve(base)).model
    if folder:
        lora.load(model, folder)
    return model(TOKENS)


def arrays(rack: Rack) -> dict[str, int]:
    """Where the base's arrays are."""
    rack.put(None)
    return {name: id(array) for name, array in tree_flatten(rack.model.parameters())}


def test_fifty_random_swaps_are_exact_and_leave_the_base_alone(tiny: Path, rack: Rack, tiny_adapters: dict[str, Path]) -> None:
    expected = {name: fresh(str(tiny), folder) for name, folder in tiny_adapters.items()} | {"": fresh(str(tiny), None)}
    assert len({tuple(array[0, -1].tolist()) for array in expected.values()}) == len(expected)
    before = arrays(rack)
    order = random.Random(1)
    for _ in range(50):
        name = order.choice(list(expected))
        rack.put(rack.load(tiny_adapters[name]) if name else None)
        assert mx.array_equal(rack.model(TOKENS), expected[name]), name
    assert arrays(rack) == before


def test_adapters_cost_their_own_bytes(rack: Rack, tiny_adapters: dict[str, Path]) -> None:
    rack.put(rack.load(tiny_adapters["all"]))
    before = mx.get_active_memory()
    for name in ("dora", "wide"):
        rack.put(rack.load(tiny_adapters[name]))
        mx.eval(rack.model(TOKENS))
    rack.put(None)
    files = sum((tiny_adapters[name] / lora.WEIGHTS).stat().st_size for name in ("all", "dora", "wide"))
    assert rack.nbytes < files
    assert mx.get_active_memory() - before < files


@pytest.mark.parametrize("compute", ["native", "float32"])
@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma3"])
def test_other_architectures_and_quantised_bases_swap_exactly(tmp_path: Path, name: str, compute) -> None:
    base = make(tmp_path / "model", name)
    sections = [AdapterSection(rank=4), AdapterSection(rank=2, kind="dora", targets=["q_proj"], layers=1)]
    if name == "qwen3_moe":
        sections.append(AdapterSection(rank=4, targets=["q_proj", "switch_mlp.up_proj"]))
    folders = [write_adapter(base, tmp_path / f"adapter{at}", section, at) for at, section in enumerate(sections)]
    rack = Rack(load(resolve(str(base)), compute).model)
    bare = rack.model(TOKENS)
    for folder in [*folders, *folders]:
        rack.put(rack.load(folder))
        model = load(resolve(str(base)), compute).model
        lora.load(model, folder)
        assert mx.array_equal(rack.model(TOKENS), model(TOKENS))
    rack.put(None)
    assert mx.array_equal(rack.model(TOKENS), bare)


def test_loading_another_leaves_the_one_that_is_on(rack: Rack, tiny_adapters: dict[str, Path]) -> None:
    rack.put(rack.load(tiny_adapters["all"]))
    before = rack.model(TOKENS)
    rack.load(tiny_adapters["embed"])
    assert mx.array_equal(rack.model(TOKENS), before)


def test_a_file_that_changed_is_read_again(tiny: Path, rack: Rack, tmp_path: Path) -> None:
    folder = write_adapter(tiny, tmp_path / "one", SECTIONS["all"], 1)
    first = rack.load(folder)
    assert rack.load(folder) is first
    write_adapter(tiny, folder, SECTIONS["all"], 2)
    second = rack.load(folder)
    assert second is not first
    rack.put(second)
    assert mx.array_equal(rack.model(TOKENS), fresh(str(tiny), folder))
    assert rack.adapters == [second]


def _other_base(folder: Path) -> None:
    config = json.loads((folder / lora.CONFIG).read_text())
    config["lora_parameters"]["rank"] = 5
    (folder / lora.CONFIG).write_text(json.dumps(config))


def _no_numbers(folder: Path) -> None:
    found: dict[str, mx.array] = mx.load(str(folder / lora.WEIGHTS))  # type: ignore[assignment]
    name = sorted(found)[0]
    mx.save_safetensors(str(folder / lora.WEIGHTS), found | {name: found[name] * float("nan")})


def _one_missing(folder: Path) -> None:
    found: dict[str, mx.array] = mx.load(str(folder / lora.WEIGHTS))  # type: ignore[assignment]
    found.pop(sorted(found)[0])
    mx.save_safetensors(str(folder / lora.WEIGHTS), found)


def _module_missing(folder: Path) -> None:
    found: dict[str, mx.array] = mx.load(str(folder / lora.WEIGHTS))  # type: ignore[assignment]
    gone = sorted(found)[0].rpartition(".")[0]
    mx.save_safetensors(
        str(folder / lora.WEIGHTS), {name: array for name, array in found.items() if not name.startswith(f"{gone}.")}
    )


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_other_base, "the rank of"),
        (_no_numbers, "no numbers"),
        (_one_missing, "only half"),
        (_module_missing, "has no match"),
        (lambda folder: (folder / lora.WEIGHTS).write_bytes(b"\x80\x05pickle"), "safetensors"),
        (lambda folder: (folder / lora.CONFIG).write_text('{"fine_tune_type": "full", "num_layers": 1}'), "whole weights"),
        (lambda folder: (folder / lora.CONFIG).write_text("[]"), "JSON object"),
        (lambda folder: (folder / lora.CONFIG).unlink(), "no adapter"),
    ],
)  # fmt: skip
def test_what_is_no_adapter_of_this_base_is_refused_and_the_model_stays_as_it_was(
    rack: Rack, tiny_adapters: dict[str, Path], tmp_path: Path, harm, message: str
) -> None:
    folder = tmp_path / "harmed"
    shutil.copytree(tiny_adapters["all"], folder)
    harm(folder)
    rack.put(rack.load(tiny_adapters["wide"]))
    before = rack.model(TOKENS)
    with pytest.raises(ModelError, match=message):
        rack.load(folder)
    assert mx.array_equal(rack.model(TOKENS), before)


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path, rack: Rack) -> None:
    other = make(tmp_path / "model", "phi3", bits=0)
    folder = write_adapter(other, tmp_path / "adapter", AdapterSection(rank=4, targets=["qkv_proj"]), 1)
    with pytest.raises(ModelError, match=r"changes nothing|no match"):
        rack.load(folder)


def test_stock_mlx_lm_computes_the_same(tiny: Path, rack: Rack, tiny_adapters: dict[str, Path]) -> None:
    from mlx_lm.tuner.utils import load_adapters

    rack.put(rack.load(tiny_adapters["all"]))
    stock = load_adapters(load_model(tiny)[0], str(tiny_adapters["all"]))
    stock.eval()
    assert mx.array_equal(stock(TOKENS), rack.model(TOKENS))
