"""What a folder from elsewhere must be before it is let in. Nothing here runs what it reads, follows a link or leaves the folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.adapters.layout import Layout, Module
from mlxtune.core.errors import InputError, ModelError
from mlxtune.core.safetensors import Tensor, read_header
from mlxtune.core.text import one_line, plural
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning import shapes
from mlxtune.planning.shapes import Shapes, Weight

if TYPE_CHECKING:
    import numpy as np

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
RESERVED = ("base", "last")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INTEGERS = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}
_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # all ones: infinite, or no number
_TOGETHER = 2**24  # numbers that are looked at together
_ELSEWHERE = re.compile(r"(?:^|\.)(?:switch_mlp|experts)\.")  # what mlx-lm arranges in another way than the files of some bases


def check_name(name: str) -> str:
    """``name``, if an adapter may be called so: it becomes a folder's name. Raises ``InputError``."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise InputError(
            f"An adapter cannot be called {one_line(name, 60)!r}.",
            mend="Use letters, digits, dots, dashes and underscores, at most 64; base and last mean something already.",
        )
    return name


def check_folder(folder: Path, weights: str) -> None:
    """Refuse what is no plain folder with a plain file called ``weights``. Raises ``ModelError`` with the reason."""
    if folder.is_symlink():
        raise ModelError(f"{folder} is a symbolic link.", mend="Name the folder that it points to.")
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}.")
    names = sorted(item.name for item in folder.iterdir())
    if weights in names:
        for item in folder.iterdir():
            if item.is_symlink():
                raise ModelError(
                    f"{one_line(item.name, 60)} in {folder} is a symbolic link: what it points to may lie anywhere.",
                    mend=f"Copy the files first: cp -rL {folder} COPY",
                )
        return
    if pickled := next((name for name in names if name.lower().endswith(PICKLES)), None):
        raise ModelError(
            f"{one_line(pickled, 60)} in {folder} is a pickle: opening it would run whatever code it holds.",
            mend="Ask its maker for safetensors; PEFT writes them with safe_serialization=True.",
        )
    raise ModelError(f"{folder} holds no adapter: there is no {weights}.")


def check_finite(file: Path) -> None:
    """Refuse weights that are infinite or no numbers. Raises ``ModelError`` that names the first tensor with one."""
    for tensor in read_header(file).tensors.values():
        mask = _EXPONENT[tensor.dtype]
        flat = read_bits(file, tensor).reshape(-1)
        broken = sum(
            int(((part & mask) == mask).sum()) for part in (flat[at : at + _TOGETHER] for at in range(0, flat.size, _TOGETHER))
        )
        if broken:
            raise ModelError(
                f"{file.name}: {one_line(tensor.name, 80)} has {plural(broken, 'value')} that are infinite or no numbers.",
                mend="Its training broke down; take an earlier checkpoint.",
            )


def read_bits(file: Path, tensor: Tensor) -> np.ndarray[Any, Any]:
    """A float tensor of ``file`` as unsigned integers of its shape, mapped from disk: numpy has no bfloat16."""
    import numpy as np

    if not tensor.numbers:
        return np.zeros(tensor.shape, _INTEGERS[tensor.dtype])
    return np.memmap(file, _INTEGERS[tensor.dtype], "r", tensor.start, tensor.shape)


def check_fits(found: Layout, source: ModelFolder) -> None:
    """Refuse an adapter of another base: a module that ``source`` has not, or has in another size. Raises ``ModelError``."""
    base = shapes.read(source.folder, source.config)
    lowest = base.depth - found.num_layers if found.num_layers > 0 else 0
    for module in found.modules.values():
        weight = find_weight(base, module.name)
        if weight is None and _ELSEWHERE.search(module.name):
            continue
        if weight is None:
            raise _other(source, f"it has no {one_line(module.name, 80)}")
        if 0 <= weight.layer < lowest:
            raise ModelError(
                f"{one_line(module.name, 80)} lies below the last {plural(found.num_layers, 'layer')}, which are all it names."
            )
        if not _matches(module, weight):
            told = (
                f"{module.outputs:,} x {module.inputs:,}"
                if len(weight.shape) == 2
                else f"{list(module.a.shape)}, {list(module.b.shape)}"
            )
            raise _other(
                source, f"{one_line(module.name, 80)} is {' x '.join(f'{side:,}' for side in weight.shape)} there and {told} here"
            )


def find_weight(base: Shapes, name: str) -> Weight | None:
    """The weight of the module called ``name``: of that layer by its name there, or outside the layers by its last name."""
    place = shapes.LAYER.search(name)
    if place:
        return next((item for item in base.weights if (item.layer, item.name) == (int(place[1]), place[2])), None)
    last = name.rsplit(".", 1)[-1]
    return next((item for item in base.weights if item.layer < 0 and item.name.rsplit(".", 1)[-1] == last), None)


def _matches(module: Module, weight: Weight) -> bool:
    if module.expert:
        return weight.shape == (module.a.shape[0], module.outputs, module.inputs)
    if weight.layer < 0 and weight.embeds:
        return weight.shape == (module.inputs, module.outputs)
    return weight.shape == (module.outputs, module.inputs)


def _other(source: ModelFolder, why: str) -> ModelError:
    return ModelError(f"The adapter is of another base than {one_line(source.name, 80)}: {why}.", mend="Name its own: --base MODEL")
