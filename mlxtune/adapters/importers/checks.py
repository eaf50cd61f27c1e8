"""Check a folder before it is imported. These checks never run code from it, follow symlinks or read outside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.adapters.layout import AdaptedModule, AdapterLayout
from mlxtune.core.errors import ModelError
from mlxtune.core.safetensors import TensorInfo, read_header
from mlxtune.core.text import one_line, plural
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning import shapes

if TYPE_CHECKING:
    import numpy as np

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
_INTEGERS = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}
_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # all ones: infinity or NaN
_CHUNK = 2**24  # values checked at a time
_EXPERTS = re.compile(r"(?:^|\.)(?:switch_mlp|experts)\.")  # mlx-lm's layout differs from the files of some bases


def check_folder(folder: Path, *weights: str) -> str:
    """Return the first of ``weights`` that is in ``folder``. Raise ``ModelError`` unless it is a regular folder of regular files."""
    if not folder.is_dir():
        raise ModelError(f"The folder {folder} does not exist.")
    if link := next((item for item in (folder, *folder.iterdir()) if item.is_symlink()), None):
        raise ModelError(f"{one_line(str(link), 120)} is a symbolic link.", hint=f"Copy first: cp -rL {folder} COPY")
    return find_weights_file(str(folder), [item.name for item in folder.iterdir()], *weights)


def find_weights_file(place: str, names: Sequence[str], *wanted: str) -> str:
    """Return the first of the ``wanted`` files among ``names``, the files in ``place``. Raise ``ModelError`` if there is none."""
    if weights := next((name for name in wanted if name in names), ""):
        return weights
    if pickle := next((name for name in sorted(names) if name.lower().endswith(PICKLES)), ""):
        raise ModelError(
            f"{place} stores its weights in a pickle file, {one_line(pickle, 60)}, which could run arbitrary code when opened.",
            hint="Ask its author for a safetensors file, which PEFT writes with safe_serialization=True.",
        )
    raise ModelError(f"{place} contains no adapter: it has no {' or '.join(wanted)}.")


def check_finite(file: Path) -> None:
    """Raise a ``ModelError`` that names the first tensor with an infinite or NaN value, if any."""
    for tensor in read_header(file).tensors.values():
        mask = _EXPONENT[tensor.dtype]
        flat = read_bits(file, tensor).reshape(-1)
        chunks = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
        if broken := sum(int(((chunk & mask) == mask).sum()) for chunk in chunks):
            values = plural(broken, "infinite or NaN value")
            raise ModelError(f"{file.name}: {one_line(tensor.name, 80)} has {values}.", hint="Use an earlier checkpoint.")


def read_bits(file: Path, tensor: TensorInfo) -> np.ndarray[Any, Any]:
    """Read a float tensor of ``file`` as unsigned integers, because numpy has no bfloat16. Raise ``ModelError`` if it is cut off."""
    import numpy as np

    numbers = np.fromfile(file, _INTEGERS[tensor.dtype], tensor.numbers, offset=tensor.start)
    if numbers.size < tensor.numbers:
        raise ModelError(f"{file} changed while it was being read.", hint="Try again when no other program is writing to it.")
    return numbers.reshape(tensor.shape)


def check_fits(layout: AdapterLayout, source: ModelFolder) -> None:
    """Raise ``ModelError`` if the base ``source`` lacks an adapted module or has it with a different shape."""
    base = shapes.read_shapes(source.folder, source.config)
    lowest = base.depth - layout.num_layers if layout.num_layers > 0 else 0
    for module in layout.modules.values():
        name = one_line(module.name, 80)
        weight = find_weight(base, module.name)
        if weight is None:
            if _EXPERTS.search(module.name):
                continue
            raise other_base(source, f"that base has no {name}")
        if 0 <= weight.layer < lowest:
            raise ModelError(f"{name} is not in the last {plural(layout.num_layers, 'layer')}, as the configuration requires.")
        if not _matches(module, weight):
            own = (module.outputs, module.inputs) if len(weight.shape) == 2 else (module.a.shape, module.b.shape)
            raise other_base(source, f"{name} has the shape {weight.shape} in the base and {own} in the adapter")


def find_weight(base: shapes.ModelShapes, name: str) -> shapes.WeightShape | None:
    """Return a module's weight, found by layer and name or, outside the layers, by the last part of its name."""
    match = shapes.LAYER.search(name)
    if match:
        return next((item for item in base.weights if (item.layer, item.name) == (int(match[1]), match[2])), None)
    last = name.rsplit(".", 1)[-1]
    return next((item for item in base.weights if item.layer < 0 and item.name.rsplit(".", 1)[-1] == last), None)


def other_base(source: ModelFolder, reason: str) -> ModelError:
    """Return the error for an adapter whose base is not ``source``."""
    hint = "Use its own base: --base MODEL"
    return ModelError(f"The adapter was trained from a different base than {one_line(source.name, 80)}: {reason}.", hint=hint)


def _matches(module: AdaptedModule, weight: shapes.WeightShape) -> bool:
    if module.expert:
        return weight.shape == (module.a.shape[0], module.outputs, module.inputs)
    if weight.layer < 0 and weight.is_embedding:
        return weight.shape == (module.inputs, module.outputs)
    return weight.shape == (module.outputs, module.inputs)
