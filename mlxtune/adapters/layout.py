"""An adapter folder in mlx-lm's layout, read without mlx: what it is, or why it is none.

adapters.safetensors     lora_a and lora_b of each module, and m for DoRA
adapter_config.json      kind, layers, rank, scale, and the modules by name
mlxtune.json             lineage, where it was made here
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.errors import InputError, ModelError
from mlxtune.core.files import open_regular
from mlxtune.core.safetensors import Header, Tensor, read_header
from mlxtune.core.text import one_line
from mlxtune.planning.shapes import LAYER
from mlxtune.recipe.parent import CONFIG, WEIGHTS

LINEAGE = "mlxtune.json"
FLOATS = ("F32", "F16", "BF16")
_LONGEST = 2**20  # bytes of a JSON file beside the weights
_MOST = 2**20  # of what is a rank, a scale or a number of layers
_PARTS = ("lora_a", "lora_b", "m")

Kind = Literal["lora", "dora"]


@dataclass(frozen=True)
class Module:
    """One adapted module: the tensors of A and B, and DoRA's magnitudes."""

    name: str
    a: Tensor
    b: Tensor
    m: Tensor | None

    @property
    def expert(self) -> bool:
        """Whether A and B are stacks of matrices: ``(experts, rank, inputs)`` and ``(experts, outputs, rank)``."""
        return len(self.a.shape) == 3

    @property
    def ranks(self) -> set[int]:
        """What A and B say the rank is: one number, where they fit each other."""
        return {self.a.shape[1], self.b.shape[2]} if self.expert else {self.a.shape[1], self.b.shape[0]}

    @property
    def inputs(self) -> int:
        return self.a.shape[2] if self.expert else self.a.shape[0]

    @property
    def outputs(self) -> int:
        return self.b.shape[1]


@dataclass(frozen=True)
class Layout:
    """What an adapter folder holds. ``base`` is what its maker called the model; ``keys`` are mlx-lm's names of the modules."""

    kind: Kind
    rank: int
    scale: float
    dropout: float
    num_layers: int
    base: str
    modules: Mapping[str, Module]
    size: int

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Modules as mlx-lm's configuration names them: those of a layer as seen from it."""
        return tuple(sorted({place[2] if (place := LAYER.search(name)) else name for name in self.modules}))

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that are adapted."""
        return tuple(sorted({int(place[1]) for name in self.modules if (place := LAYER.search(name))}))

    @property
    def parameters(self) -> int:
        parts = (part for module in self.modules.values() for part in (module.a, module.b, module.m))
        return sum(part.numbers for part in parts if part)

    @property
    def config(self) -> dict[str, Any]:
        """mlx-lm's configuration of it, with every module named."""
        parameters = {"rank": self.rank, "scale": self.scale, "dropout": self.dropout, "keys": list(self.keys)}
        return {"fine_tune_type": self.kind, "num_layers": self.num_layers, "lora_parameters": parameters, "model": self.base}


def read_layout(folder: Path) -> Layout:
    """The adapter in ``folder``, from its configuration and the header of its weights.

    Raises ``ModelError`` with the reason when a file is missing, is no regular file, is broken, or they do not fit each other.
    """
    return layout(read_config(folder / CONFIG), read_header(folder / WEIGHTS), folder)


def layout(config: Mapping[str, Any], header: Header, folder: Path) -> Layout:
    """``config`` and ``header``, which lie in ``folder``, as an adapter. Raises ``ModelError`` as :func:`read_layout` does."""
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        raise ModelError(f"{folder} holds whole weights (fine_tune_type full), not an adapter.")
    match kind, config.get("lora_parameters"), config.get("num_layers"):
        case (("lora" | "dora"), {"rank": int(rank), "scale": int() | float() as scale, **more}, int(layers)):
            dropout = more.get("dropout", 0.0)
        case _:
            raise ModelError(f"{folder / CONFIG} does not say kind, rank, scale and layers as mlx-lm does.")
    if not (1 <= rank <= _MOST and abs(layers) <= _MOST and abs(scale) <= _MOST):  # a scale that is no number is not
        raise ModelError(f"{folder / CONFIG} has an impossible rank, scale or number of layers.")
    modules = _modules(header, folder / WEIGHTS)
    for module in modules.values():
        _fits_itself(module, kind, rank, folder)
    known = more.get("keys")
    found = Layout(
        kind, rank, float(scale), dropout if isinstance(dropout, float) else 0.0, layers,
        str(config.get("model") or ""), modules, sum(tensor.size for tensor in header.tensors.values()),
    )  # fmt: skip
    if isinstance(known, list) and (odd := sorted(set(found.keys) - set(map(str, known)))):
        raise ModelError(f"{folder}: the weights have {one_line(odd[0], 60)}, which the configuration does not name.")
    return found


def read_config(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``, which must be a regular file of sane size. Raises ``ModelError``."""
    try:
        with open_regular(file) as stream:
            text = stream.read(_LONGEST + 1)
        value = json.loads(text) if len(text) <= _LONGEST else None
    except InputError as error:
        raise ModelError(error.message) from error
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} is not a JSON object of at most {_LONGEST // 2**20} MB.")
    return value


def _modules(header: Header, file: Path) -> dict[str, Module]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in header.tensors.items():
        stem, _, part = name.rpartition(".")
        if part not in _PARTS or not stem:
            raise ModelError(f"{file}: {one_line(name, 80)} is no part of a LoRA or DoRA adapter.")
        if tensor.dtype not in FLOATS:
            raise ModelError(f"{file}: {one_line(name, 80)} is {tensor.dtype}; adapters are F32, F16 or BF16.")
        parts.setdefault(stem, {})[part] = tensor
    if not parts:
        raise ModelError(f"{file} holds no tensors.")
    found = {}
    for stem, own in sorted(parts.items()):
        if "lora_a" not in own or "lora_b" not in own:
            raise ModelError(f"{file}: {one_line(stem, 80)} has only half of its A and B.")
        found[stem] = Module(stem, own["lora_a"], own["lora_b"], own.get("m"))
    return found


def _fits_itself(module: Module, kind: str, rank: int, folder: Path) -> None:
    """Raises ``ModelError`` when the tensors of a module do not belong together."""
    shown = one_line(module.name, 80)
    a, b, m = module.a.shape, module.b.shape, module.m.shape if module.m else None
    if len(a) != len(b) or len(a) not in (2, 3) or (module.expert and a[0] != b[0]) or 0 in (*a, *b):
        raise ModelError(f"{folder}: A and B of {shown} are no matrices that fit each other: {list(a)} and {list(b)}.")
    if module.ranks != {rank}:
        told = " and ".join(map(str, sorted(module.ranks)))
        raise ModelError(f"{folder}: the rank of {shown} is {told}, and the configuration says {rank}.")
    if kind == "dora" and (module.expert or m != (module.outputs,)):
        raise ModelError(f"{folder}: {shown} has not one magnitude for each of its {module.outputs:,} outputs, as DoRA needs.")
    if kind == "lora" and m is not None:
        raise ModelError(f"{folder}: {shown} has DoRA's magnitudes, and the configuration says LoRA.")
