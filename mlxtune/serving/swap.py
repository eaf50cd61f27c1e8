"""One base in memory and the adapters that can be put on it, one at a time.

An adapter is a set of mlx-lm's own LoRA or DoRA modules, each built around the module of the base that it changes. To put it on is
to let those modules stand where the base's stood: a few hundred assignments, and no array of the base is read, written or copied.
So what is computed is what a fresh load computes, bit for bit, whichever adapter was there before, and each adapter costs its own
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlxtune.adapters.layout import read_config, read_layout
from mlxtune.core.errors import ModelError
from mlxtune.models.lora import CONFIG, WEIGHTS

_LEAVES = ("lora_a", "lora_b", "m")


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter in memory. ``modules`` are its own by the names of those they stand for; ``nbytes`` is what its arrays take."""

    folder: Path
    modules: dict[str, nn.Module]
    nbytes: int


class Rack:
    """A loaded base without adapters, and those that were loaded for it. Belongs to the thread that owns MLX."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._base: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
        self._known: dict[Path, tuple[Any, Adapter]] = {}
        self.on: Adapter | None = None

    def load(self, folder: Path) -> Adapter:
        """The adapter in ``folder``, from memory unless its files changed. What is on the base stays on it.

        Raises ``ModelError`` when it is not one of this base: a broken header, other names or shapes, or values that are no numbers.
        """
        state = _state(folder)
        known = self._known.get(folder)
        if known and known[0] == state:
            return known[1]
        before = self.on
        self.put(None)
        try:
            adapter = Adapter(folder, *self._around(folder))
        finally:
            for name, module in self._base.items():
                _set(self.model, name, module)
            self.put(before)
        self._known[folder] = (state, adapter)
        return adapter

    def put(self, adapter: Adapter | None) -> None:
        """Let the model be the base with ``adapter`` on it, or the base alone."""
        if adapter is self.on:
            return
        for name in self.on.modules if self.on else ():
            _set(self.model, name, self._base[name])
        for name, module in adapter.modules.items() if adapter else ():
            _set(self.model, name, module)
        self.on = adapter

    @property
    def adapters(self) -> list[Adapter]:
        """Those that are in memory."""
        return [adapter for _, adapter in self._known.values()]

    @property
    def nbytes(self) -> int:
        """Bytes of all loaded adapters."""
        return sum(adapter.nbytes for adapter in self.adapters)

    def _around(self, folder: Path) -> tuple[dict[str, nn.Module], int]:
        """The adapter's modules around the base's, by name, and the bytes of its arrays. They are left standing on the model."""
        layout = read_layout(folder)
        parameters = read_config(folder / CONFIG)["lora_parameters"]
        try:
            linear_to_lora_layers(self.model, layout.num_layers, parameters, use_dora=layout.kind == "dora")
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise ModelError(f"The adapter in {folder} does not fit this model: {error}.") from error
        made = {name: module for name, module in self.model.named_modules() if self._base.get(name, module) is not module}
        own = {
            f"{name}.{leaf}": (module, leaf) for name, module in made.items() for leaf in _LEAVES if leaf in module
        }  # fmt: skip
        found: Any = mx.load(str(folder / WEIGHTS))
        odd = sorted(own.keys() ^ found.keys()) or [name for name, (at, leaf) in own.items() if at[leaf].shape != found[name].shape]
        if odd:
            raise ModelError(
                f"The adapter in {folder} does not fit this model: {odd[0]} has no match.", mend="Was it trained on another base?"
            )
        if not made:
            raise ModelError(f"The adapter in {folder} changes nothing of this model.", mend="Was it trained on another base?")
        for name, array in found.items():
            module, leaf = own[name]
            module[leaf] = array
        finite = mx.array([mx.isfinite(array).all() for array in found.values()])
        for module in made.values():
            module.freeze()
            module.eval()
        mx.eval(finite, list(found.values()))
        if not finite.all().item():
            raise ModelError(f"The adapter in {folder} has values that are no numbers.", mend="Train it again, or take another.")
        return made, sum(array.nbytes for array in found.values())


def _state(folder: Path) -> Any:
    """What changes when an adapter's files do. Raises ``ModelError`` where there is none."""
    try:
        return [(stat.st_mtime_ns, stat.st_size) for stat in ((folder / name).stat() for name in (WEIGHTS, CONFIG))]
    except OSError as error:
        raise ModelError(f"There is no adapter at {folder}.", mend="An adapter is a folder in mlx-lm's layout.") from error


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` at the place ``name`` of ``model``."""
    *path, leaf = name.split(".")
    holder: Any = model
    for part in path:
        holder = holder[int(part)] if isinstance(holder, list) else holder[part]
    if isinstance(holder, list):
        holder[int(leaf)] = module
    else:
        holder[leaf] = module
