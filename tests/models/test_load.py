"""Loading: both compute paths say the same, and unquantised weights are quantised where that is asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from architectures import make
from mlx_lm.utils import load_model

from mlxtune.core.errors import ModelError
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve

TOKENS = mx.array([[70, 71, 72, 73]])


def test_quantised_models_compute_on_both_paths(tmp_path: Path) -> None:
    source = resolve(str(make(tmp_path, "smollm2")))
    native, dense = load(source, "native"), load(source, "float32")
    assert "4-bit weights, native" in native.path
    assert "4-bit weights, computed in float32" in dense.path
    assert mx.allclose(native.model(TOKENS), dense.model(TOKENS), rtol=1e-3, atol=1e-3)
    assert load_model(source.folder)[1]["quantization"]["bits"] == 4


@pytest.mark.parametrize("bits", [4, 8])
def test_unquantised_weights_are_quantised_on_load_as_mlx_does_it(tmp_path: Path, bits: int) -> None:
    source = resolve(str(make(tmp_path, "llama", bits=0)))
    plain, native, dense = load(source, "native"), load(source, "native", bits), load(source, "float32", bits)
    assert plain.path.startswith("unquantised weights, native")
    assert f"quantised to {bits} bits on load, native" in native.path
    assert f"quantised to {bits} bits on load, computed in float32" in dense.path
    exact = plain.model.layers[0].self_attn.q_proj.weight
    layer, rounded = native.model.layers[0].self_attn.q_proj, dense.model.layers[0].self_attn.q_proj
    assert isinstance(layer, nn.QuantizedLinear)
    assert (layer.bits, layer.group_size) == (bits, 64)
    assert type(rounded) is nn.Linear
    assert mx.array_equal(rounded.weight, mx.dequantize(*mx.quantize(exact, 64, bits), 64, bits))
    assert not mx.array_equal(rounded.weight, exact)
    assert mx.allclose(native.model(TOKENS), dense.model(TOKENS), rtol=1e-3, atol=1e-3)


def test_groups_are_smaller_where_a_width_does_not_divide_and_modules_keep_what_the_architecture_wants(tmp_path: Path) -> None:
    odd = load(resolve(str(make(tmp_path / "odd", "llama", bits=0, intermediate_size=96))), "native", 4).model
    assert odd.layers[0].mlp.down_proj.group_size == 32
    assert odd.layers[0].mlp.up_proj.group_size == 64
    experts = load(resolve(str(make(tmp_path / "moe", "qwen3_moe", bits=0))), "native", 4).model
    assert experts.layers[0].mlp.gate.bits == 8
    assert experts.layers[0].mlp.switch_mlp.down_proj.bits == 4


def test_other_bits_than_the_weights_have_are_refused(tmp_path: Path) -> None:
    source = resolve(str(make(tmp_path, "llama")))
    assert load(source, "native", 4).path.startswith("4-bit weights")
    with pytest.raises(ModelError, match=r"has 4-bit weights already, so it cannot be quantised to 8 bits"):
        load(source, "native", 8)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, "llama")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"lama"'))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(resolve(str(folder)))


def test_weights_are_told_apart_by_any_of_their_matrices(tiny: Path, tmp_path: Path) -> None:
    same = Path(shutil.copytree(tiny, tmp_path / "same"))
    known = resolve(str(tiny)).fingerprint
    assert resolve(str(same)).fingerprint == known
    (file,) = same.glob("*.safetensors")
    arrays = mx.load(str(file))
    for name in [name for name in arrays if name.endswith("proj.weight")]:
        mx.save_safetensors(str(file), arrays | {name: arrays[name] + 1}, {"format": "mlx"})
        assert resolve(str(same)).fingerprint != known, name
