"""A machine of known size, and models with hand-written headers. No weights are loaded."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.planning import shapes
from mlxtune.planning.machine import Machine
from mlxtune.planning.shapes import ModelShapes
from mlxtune.planning.workload import DatasetLengths, RowLength
from mlxtune.recipe import Recipe, parse

Header = dict[str, tuple[str, list[int]]]
_SIZES = {"F32": 4, "BF16": 2, "F16": 2, "U32": 4}


def write_model(folder: Path, header: Header, config: dict[str, Any]) -> Path:
    """Write a model folder whose safetensors file has a header and zeros for weights."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, end = {}, 0
    for name, (kind, shape) in header.items():
        start, end = end, end + _SIZES[kind] * _product(shape)
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _product(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def llama(
    layers: int = 4, width: int = 256, inner: int = 512, heads: int = 4, kv: int = 2, vocabulary: int = 1000, kind: str = "F32",
    bits: int = 0, group: int = 64,
) -> tuple[Header, dict[str, Any]]:  # fmt: skip
    """Return the header and configuration of a Llama with tied embeddings; ``bits`` packs its matrices as mlx-lm does."""
    key = width // heads * kv
    matrices = {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (key, width), "self_attn.v_proj": (key, width),
        "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner),
    }  # fmt: skip
    header: Header = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        if not bits:
            header[f"{name}.weight"] = (kind, [rows, columns])
            return
        header[f"{name}.weight"] = ("U32", [rows, columns * bits // 32])
        for part in ("scales", "biases"):
            header[f"{name}.{part}"] = (kind, [rows, columns // group])

    matrix("model.embed_tokens", vocabulary, width)
    for number in range(layers):
        for name, (rows, columns) in matrices.items():
            matrix(f"model.layers.{number}.{name}", rows, columns)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            header[f"model.layers.{number}.{norm}.weight"] = (kind, [width])
    header["model.norm.weight"] = (kind, [width])
    config: dict[str, Any] = {
        "model_type": "llama", "num_attention_heads": heads, "num_key_value_heads": kv, "tie_word_embeddings": True,
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": vocabulary, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    if bits:
        config["quantization"] = {"bits": bits, "group_size": group}
    return header, config


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ModelShapes]:
    """Return a function that returns the shapes of a Llama with the given dimensions."""

    def read_llama(**dimensions: Any) -> ModelShapes:
        header, config = llama(**dimensions)
        return shapes.read_shapes(write_model(tmp_path / "model", header, config), config)

    return read_llama


@pytest.fixture
def machine() -> Machine:
    """A CPU with two cores and a limit of 16 GiB."""
    return Machine("Linux", "a chip", 2, "cpu", 16 * 2**30)


@pytest.fixture
def metal(machine: Machine) -> Machine:
    return replace(machine, backend="metal")


def recipe(*overrides: str) -> Recipe:
    text = 'name = "r"\n[model]\nbase = "m"\n[data]\nsource = "s.jsonl"\n[training]\nepochs = 2\nbatch_tokens = 2048\nlearning_rate = 2e-4\n'
    return parse(text, overrides=overrides)


def lengths(*full: int, prefix: int = 0, plain: bool = True) -> DatasetLengths:
    """Return rows whose last quarter is trained."""
    rows = tuple(RowLength(count, count // 4, count - count // 4) for count in full)
    return DatasetLengths(rows, rows[:2], prefix, plain)
