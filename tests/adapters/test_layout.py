"""Reading adapter folder metadata and refusing inconsistent folders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.adapters.layout import read_layout
from mlxtune.core.errors import ModelError

from .conftest import arrays, config, write


def test_config_is_read_without_weights(tmp_path: Path) -> None:
    layout = read_layout(write(tmp_path, arrays(6, kind="dora"), config(6, kind="dora", scale=1.5, model="m")))
    assert (layout.kind, layout.rank, layout.scale, layout.base) == ("dora", 6, 1.5, "m")
    assert layout.keys == ("self_attn.q_proj", "self_attn.v_proj")
    assert layout.layers == (0, 1)
    assert layout.parameters == 2 * (6 * (64 + 64) + 64 + 6 * (64 + 32) + 32)
    assert layout.size == 4 * layout.parameters
    module = layout.modules["model.layers.1.self_attn.v_proj"]
    assert (module.inputs, module.outputs, module.ranks) == (64, 32, {6})


def test_experts_are_stacked_matrices(tmp_path: Path) -> None:
    stem = "model.layers.0.mlp.switch_mlp.up_proj"
    tensors = {f"{stem}.lora_a": np.ones((3, 4, 64), np.float32), f"{stem}.lora_b": np.ones((3, 96, 4), np.float32)}
    module = read_layout(write(tmp_path, tensors, config())).modules[stem]
    assert (module.expert, module.inputs, module.outputs, module.ranks) == (True, 64, 96, {4})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fine_tune_type": "full"}, "full weights"),
        ({"fine_tune_type": "ia3"}, "lacks the kind"),
        ({"fine_tune_type": ["lora"]}, "lacks the kind"),
        ({"lora_parameters": None}, "lacks the kind"),
        ({"lora_parameters": {"rank": 4, "alpha": 8}}, "lacks the kind"),
        ({"lora_parameters": {"rank": "4", "scale": 2.0}}, "lacks the kind"),
        ({"lora_parameters": {"rank": 4, "scale": float("nan")}}, "invalid rank, scale"),
        ({"lora_parameters": {"rank": 4, "scale": 10**300}}, "invalid rank, scale"),
        ({"lora_parameters": {"rank": 0, "scale": 2.0}}, "invalid rank, scale"),
        ({"lora_parameters": {"rank": 8, "scale": 2.0}}, "has rank 4, but the configuration says 8"),
        ({"lora_parameters": {"rank": 4, "scale": 2.0, "keys": ["self_attn.q_proj"]}}, "self_attn.v_proj, which the configuration"),
        ({"num_layers": None}, "lacks the kind"),
        ({"fine_tune_type": "dora"}, "lacks DoRA magnitudes for its 64 outputs"),
    ],
)
def test_inconsistent_config_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        read_layout(write(tmp_path, arrays(), config() | changes))


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({f"{Q}.lora_b": None}, "lacks its A or B"),
        ({f"{Q}.lora_b": np.ones((5, 64), np.float32)}, "q_proj has rank 4 and 5"),
        ({f"{Q}.lora_b": np.ones((2, 4, 64), np.float32)}, "do not match"),
        ({f"{Q}.lora_a": np.ones((64,), np.float32)}, "do not match"),
        ({f"{Q}.lora_a": np.ones((0, 4), np.float32)}, "do not match"),
        ({f"{Q}.lora_a": np.ones((64, 4), np.int32)}, "has the type I32, but adapters must be F32, F16 or BF16"),
        ({f"{Q}.m": np.ones((64,), np.float32)}, "DoRA magnitudes, but the configuration says LoRA"),
        ({f"{Q}.weight": np.ones((64, 64), np.float32)}, "not part of a LoRA or DoRA adapter"),
        (dict.fromkeys(arrays()), "contains no tensors"),
    ],
)
def test_mismatched_tensors_are_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    tensors = {name: array for name, array in (arrays() | changes).items() if array is not None}
    with pytest.raises(ModelError, match=why):
        read_layout(write(tmp_path, tensors, config()))


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '"x"', " " * (2**20 + 1), "\xff"])
def test_malformed_config_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, arrays(), config())
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"adapter_config\.json is not"):
        read_layout(tmp_path)
