"""Loading: both compute paths agree, and unquantized weights are quantized on request."""

import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.utils import load_model
from tiny_architectures import make

from mlxtune.core.errors import ModelError
from mlxtune.models import load as load_module
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.planning.calibration import machine_facts
from mlxtune.planning.machine import CACHE_LIMIT, COMPUTE_VARIABLE, this_machine
from mlxtune.planning.memory import kernels_for

TOKENS = mx.array([[70, 71, 72, 73]])


def test_quantized_models_compute_on_both_paths(tmp_path: Path) -> None:
    source = resolve(str(make(tmp_path, "smollm2")))
    native, dense = load(source, "native"), load(source, "float32")
    assert "4-bit weights, native" in native.description
    assert "4-bit weights, computed in float32" in dense.description
    assert mx.allclose(native.model(TOKENS), dense.model(TOKENS), rtol=1e-3, atol=1e-3)
    assert load_model(source.folder)[1]["quantization"]["bits"] == 4


@pytest.mark.parametrize("bits", [4, 8])
def test_unquantized_weights_are_quantized_on_load(tmp_path: Path, bits: int) -> None:
    source = resolve(str(make(tmp_path, "llama", bits=0)))
    plain, native, dense = load(source, "native"), load(source, "native", bits), load(source, "float32", bits)
    assert plain.description.startswith("unquantized weights, native")
    assert f"quantized to {bits} bits on load, native" in native.description
    assert f"quantized to {bits} bits on load, computed in float32" in dense.description
    exact = plain.model.layers[0].self_attn.q_proj.weight
    layer, rounded = native.model.layers[0].self_attn.q_proj, dense.model.layers[0].self_attn.q_proj
    assert isinstance(layer, nn.QuantizedLinear)
    assert (layer.bits, layer.group_size) == (bits, 64)
    assert type(rounded) is nn.Linear
    assert mx.array_equal(rounded.weight, mx.dequantize(*mx.quantize(exact, 64, bits), 64, bits))
    assert not mx.array_equal(rounded.weight, exact)
    assert mx.allclose(native.model(TOKENS), dense.model(TOKENS), rtol=1e-3, atol=1e-3)


def test_group_sizes_follow_widths_and_the_architecture(tmp_path: Path) -> None:
    odd = load(resolve(str(make(tmp_path / "odd", "llama", bits=0, intermediate_size=96))), "native", 4).model
    assert odd.layers[0].mlp.down_proj.group_size == 32
    assert odd.layers[0].mlp.up_proj.group_size == 64
    experts = load(resolve(str(make(tmp_path / "moe", "qwen3_moe", bits=0))), "native", 4).model
    assert experts.layers[0].mlp.gate.bits == 8
    assert experts.layers[0].mlp.switch_mlp.down_proj.bits == 4


def test_other_bits_than_those_of_the_weights_are_refused(tmp_path: Path) -> None:
    source = resolve(str(make(tmp_path, "llama")))
    assert load(source, "native", 4).description.startswith("4-bit weights")
    with pytest.raises(ModelError, match=r"already has 4-bit weights"):
        load(source, "native", 8)


def test_a_gpu_caps_free_buffers_and_wires_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every process that loads a model: training, evaluation, serving and the planner's probe."""
    limits: dict[str, int] = {}
    monkeypatch.setattr(load_module, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 21 * 2**30})
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "set_cache_limit", lambda limit: limits.update(cache=limit))
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: limits.update(wired=limit))
    load(resolve(str(make(tmp_path, "smollm2"))), "float32")
    assert limits == {"cache": CACHE_LIMIT, "wired": 21 * 2**30}


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, "llama")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"lama"'))
    with pytest.raises(ModelError, match=r"mlx-lm [0-9.]+ has no architecture lama"):
        load(resolve(str(folder)))


def test_the_fingerprint_depends_on_every_matrix(tiny: Path, tmp_path: Path) -> None:
    same = Path(shutil.copytree(tiny, tmp_path / "same"))
    known = resolve(str(tiny)).fingerprint
    assert resolve(str(same)).fingerprint == known
    (file,) = same.glob("*.safetensors")
    arrays = mx.load(str(file))
    for name in [name for name in arrays if name.endswith("proj.weight")]:
        mx.save_safetensors(str(file), arrays | {name: arrays[name] + 1}, {"format": "mlx"})
        assert resolve(str(same)).fingerprint != known, name


def test_a_cpu_computes_natively_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve(str(make(tmp_path, "smollm2", dtype="float16")))
    machine = replace(this_machine(), backend="cpu")
    facts, kernels = machine_facts(machine), kernels_for(machine)
    assert load(source).compute == "float32"
    monkeypatch.setenv(COMPUTE_VARIABLE, "native")
    native = load(source)
    assert "native on the CPU" in native.description
    assert native.model(TOKENS).dtype == mx.float16
    assert machine_facts(machine) != facts
    assert kernels_for(machine) != kernels
    monkeypatch.undo()
    assert mx.allclose(native.model(TOKENS), load(source).model(TOKENS), rtol=1e-2, atol=1e-2)
