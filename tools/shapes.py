"""Generate ``mlxtune/models/shapes.json``, the shapes of the catalog's models, from their configurations and mlx-lm's model classes.

    python tools/shapes.py

Each model is built and quantized lazily, so no weights are computed. The header of the file that mlx-lm would write is then read as that
of a downloaded model is. A test compares the file with this script's output.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from mlxtune.models import catalog
from mlxtune.planning import shapes
from mlxtune.planning.shapes import ModelShapes, WeightShape
from mlxtune.training.layer_stack import plain_attention

TABLE = Path(catalog.__file__).parent / "shapes.json"
DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 1e4}  # required by some classes; they do not affect shapes
QUANTIZATION = {"bits": 4, "group_size": 64}
KINDS = {mx.bfloat16: "BF16", mx.float32: "F32", mx.uint32: "U32", mx.uint8: "U8"}


def main() -> int:
    """Write the table if it is out of date, and print its path."""
    text = rendered()
    if not TABLE.is_file() or TABLE.read_text() != text:
        TABLE.write_text(text)
        print(TABLE)
    return 0


def rendered() -> str:
    """Return the content of the table: one line per model."""
    lines = (f"{json.dumps(base.id)}: {json.dumps(entry(base.config), separators=(',', ':'))}" for base in catalog.entries())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def entry(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's line in the table. Layers with the same weights share a list of them."""
    model, settings = build(config)
    found = header_shapes(model, settings)
    kinds: list[list[list[Any]]] = []
    layers = []
    for weights in found.layers:
        kind = [_row(weight) for weight in weights]
        if kind not in kinds:
            kinds.append(kind)
        layers.append(kinds.index(kind))
    return {
        "heads": found.heads, "kv_heads": found.kv_heads, "head_dim": found.head_dim, "active_experts": found.active_experts,
        "tied": found.tied, "full_attention": plain_attention(model), "layers": layers, "kinds": kinds,
        "outside": [_row(weight) for weight in found.weights if weight.layer < 0],
    }  # fmt: skip


def build(config: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Return the lazily built and quantized model of ``config``, and its complete configuration, as mlx-lm's converter writes it."""
    settings = DEFAULTS | json.loads(json.dumps(config))
    if "text_config" in settings:
        settings["text_config"] = DEFAULTS | settings["text_config"]
    quantization = QUANTIZATION | settings.pop("quantization", {})
    overrides = {name: value for name, value in quantization.items() if isinstance(value, dict)}
    default = {name: value for name, value in quantization.items() if name not in overrides}
    model_class, arguments = _get_classes(settings)
    model = model_class(arguments.from_dict(json.loads(json.dumps(settings))))
    model.set_dtype(mx.bfloat16)
    own_predicate = getattr(model, "quant_predicate", None)
    settings["quantization"] = dict(default)

    def predicate(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % default["group_size"]:
            return False
        choice = next((value for name, value in overrides.items() if path.endswith(name)), None)
        if choice is None and own_predicate:
            choice = own_predicate(path, module)
        if isinstance(choice, dict):
            settings["quantization"][path] = choice
        return default | choice if isinstance(choice, dict) else default if choice is not False else False

    nn.quantize(model, class_predicate=predicate)
    return model, settings


def header_shapes(model: nn.Module, settings: dict[str, Any]) -> ModelShapes:
    """Return the shapes in the header of the model's file. The file is sparse."""
    entries: dict[str, Any] = {}
    end = 0
    for name, array in tree_flatten(model.parameters()):
        start, end = end, end + math.prod(array.shape) * array.dtype.size
        entries[name] = {"dtype": KINDS[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + end)
        return shapes.read_shapes(Path(folder), settings)


def _row(weight: WeightShape) -> list[Any]:
    return [weight.name, list(weight.shape), weight.nbytes, weight.size, weight.bits]


if __name__ == "__main__":
    sys.exit(main())
