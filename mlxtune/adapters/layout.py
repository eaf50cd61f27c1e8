"""Read and check an adapter folder in mlx-lm's layout. Imports no mlx.

adapters.safetensors     lora_a and lora_b of each module, and m for DoRA
adapter_config.json      kind, layers, rank, scale, and the names of the modules
mlxtune.json             lineage, written by mlxtune
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.errors import InputError, ModelError
from mlxtune.core.files import open_regular
from mlxtune.core.safetensors import Header, TensorInfo, read_header
from mlxtune.core.text import one_line
from mlxtune.planning.shapes import LAYER
from mlxtune.recipe.parent import CONFIG, WEIGHTS

LINEAGE = "mlxtune.json"
FLOATS = ("F32", "F16", "BF16")
_MAX_JSON = 2**20  # bytes in a JSON file
_MAX_VALUE = 2**20  # maximum rank, scale or number of layers
_PARTS = ("lora_a", "lora_b", "m")

Kind = Literal["lora", "dora"]


@dataclass(frozen=True)
class AdaptedModule:
    """An adapted module: its tensors A and B, and its magnitudes with DoRA."""

    name: str
    a: TensorInfo
    b: TensorInfo
    m: TensorInfo | None

    @property
    def expert(self) -> bool:
        """Whether A is ``(experts, rank, inputs)`` and B is ``(experts, outputs, rank)``."""
        return len(self.a.shape) == 3

    @property
    def ranks(self) -> set[int]:
        """The ranks of A and B. They should be equal."""
        return {self.a.shape[1], self.b.shape[2]} if self.expert else {self.a.shape[1], self.b.shape[0]}

    @property
    def inputs(self) -> int:
        return self.a.shape[2] if self.expert else self.a.shape[0]

    @property
    def outputs(self) -> int:
        return self.b.shape[1]


@dataclass(frozen=True)
class AdapterLayout:
    """The contents of an adapter folder. ``base`` is the model's name, as written by the adapter's author."""

    kind: Kind
    rank: int
    scale: float
    dropout: float
    num_layers: int
    base: str
    modules: Mapping[str, AdaptedModule]
    size: int

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The module names as in mlx-lm's configuration: relative to their layer, if they are inside one."""
        return tuple(sorted({place[2] if (place := LAYER.search(name)) else name for name in self.modules}))

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The indices of the adapted layers."""
        return tuple(sorted({int(place[1]) for name in self.modules if (place := LAYER.search(name))}))

    @property
    def parameters(self) -> int:
        parts = (part for module in self.modules.values() for part in (module.a, module.b, module.m))
        return sum(part.numbers for part in parts if part)

    @property
    def config(self) -> dict[str, Any]:
        """mlx-lm's configuration for this adapter, with the names of all modules."""
        parameters = {"rank": self.rank, "scale": self.scale, "dropout": self.dropout, "keys": list(self.keys)}
        return {"fine_tune_type": self.kind, "num_layers": self.num_layers, "lora_parameters": parameters, "model": self.base}


def read_layout(folder: Path) -> AdapterLayout:
    """Read the adapter in ``folder``. Raise ``ModelError`` if a file is missing, invalid or not regular, or they do not match."""
    return parse_layout(read_config(folder / CONFIG), read_header(folder / WEIGHTS), folder)


def parse_layout(config: Mapping[str, Any], header: Header, folder: Path) -> AdapterLayout:
    """Return the adapter described by ``config`` and ``header``. Raise ``ModelError`` if they do not match."""
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        raise ModelError(f"{folder} contains full weights (fine_tune_type full), not an adapter.")
    match kind, config.get("lora_parameters"), config.get("num_layers"):
        case (("lora" | "dora"), {"rank": int(rank), "scale": int() | float() as scale, **more}, int(layers)):
            dropout = more.get("dropout", 0.0)
        case _:
            raise ModelError(f"{folder / CONFIG} lacks the kind, rank, scale or number of layers that mlx-lm requires.")
    in_range = 1 <= rank <= _MAX_VALUE and abs(layers) <= _MAX_VALUE and abs(scale) <= _MAX_VALUE  # false if the scale is NaN
    if not (in_range and isinstance(dropout, int | float) and 0 <= dropout < 1):
        raise ModelError(f"{folder / CONFIG} has an invalid rank, scale, dropout or number of layers.")
    modules = _modules(header, folder / WEIGHTS)
    for module in modules.values():
        _check_module(module, kind, rank, folder)
    named = more.get("keys")
    layout = AdapterLayout(
        kind, rank, float(scale), float(dropout), layers,
        str(config.get("model") or ""), modules, sum(tensor.size for tensor in header.tensors.values()),
    )  # fmt: skip
    if isinstance(named, list) and (unnamed := sorted(set(layout.keys) - set(map(str, named)))):
        raise ModelError(f"{folder}: the weights contain {one_line(unnamed[0], 60)}, which the configuration does not list.")
    return layout


def read_config(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``. Raise ``ModelError`` unless it is a regular file of at most 1 MB with one object."""
    try:
        with open_regular(file) as stream:
            text = stream.read(_MAX_JSON + 1)
        value = json.loads(text) if len(text) <= _MAX_JSON else None
    except InputError as error:
        raise ModelError(error.message) from error
    except (ValueError, OSError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{file} is not a JSON object of at most {_MAX_JSON // 2**20} MB.")
    return value


def _modules(header: Header, file: Path) -> dict[str, AdaptedModule]:
    tensors: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in header.tensors.items():
        stem, _, part = name.rpartition(".")
        if part not in _PARTS or not stem:
            raise ModelError(f"{file}: {one_line(name, 80)} is not part of a LoRA or DoRA adapter.")
        if tensor.dtype not in FLOATS:
            raise ModelError(f"{file}: {one_line(name, 80)} has the type {tensor.dtype}, but adapters must be F32, F16 or BF16.")
        tensors.setdefault(stem, {})[part] = tensor
    if not tensors:
        raise ModelError(f"{file} contains no tensors.")
    modules = {}
    for stem, own in sorted(tensors.items()):
        if "lora_a" not in own or "lora_b" not in own:
            raise ModelError(f"{file}: {one_line(stem, 80)} lacks its A or B tensor.")
        modules[stem] = AdaptedModule(stem, own["lora_a"], own["lora_b"], own.get("m"))
    return modules


def _check_module(module: AdaptedModule, kind: str, rank: int, folder: Path) -> None:
    shown = one_line(module.name, 80)
    a, b, m = module.a.shape, module.b.shape, module.m.shape if module.m else None
    if len(a) != len(b) or len(a) not in (2, 3) or (module.expert and a[0] != b[0]) or 0 in (*a, *b):
        raise ModelError(f"{folder}: the shapes of A and B of {shown} do not match: {list(a)} and {list(b)}.")
    if module.ranks != {rank}:
        ranks = " and ".join(map(str, sorted(module.ranks)))
        raise ModelError(f"{folder}: {shown} has rank {ranks}, but the configuration says {rank}.")
    if kind == "dora" and (module.expert or m != (module.outputs,)):
        raise ModelError(f"{folder}: {shown} lacks DoRA magnitudes for its {module.outputs:,} outputs.")
    if kind == "lora" and m is not None:
        raise ModelError(f"{folder}: {shown} has DoRA magnitudes, but the configuration says LoRA.")
