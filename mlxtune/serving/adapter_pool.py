"""One base model in memory, and adapters that can be activated on it, one at a time.

An adapter is a set of mlx-lm's LoRA or DoRA modules, each wrapping the base module that it changes. Activating it replaces the
base's modules with these: a few hundred assignments that do not touch the base's arrays. The results are therefore bit-identical
to a fresh load, whichever adapter was active before, and each adapter takes only its own memory.
"""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlxtune.adapters.layout import read_layout
from mlxtune.core.errors import ModelError
from mlxtune.core.files import FileStamp, file_stamp
from mlxtune.models import lora
from mlxtune.recipe.parent import CONFIG, WEIGHTS

MAX_ADAPTERS = 16  # in memory, besides those of requests that are being answered


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter in memory: its ``modules``, keyed by the base modules that they replace, and the ``stamps`` of its files."""

    modules: dict[str, nn.Module]
    stamps: list[FileStamp | None]


class AdapterPool:
    """A loaded base model and the adapters loaded for it. Belongs to the thread that owns MLX."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._base: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
        self._loaded: dict[Path, LoadedAdapter] = {}  # least recently used first
        self.active: LoadedAdapter | None = None

    def load(self, folder: Path) -> LoadedAdapter:
        """Return the adapter in ``folder``, from memory unless its files changed. The active adapter stays active.

        Raises ``ModelError`` for an invalid header, names or shapes that do not match this base, and values that are not finite.
        """
        stamps = [file_stamp(folder / name) for name in (WEIGHTS, CONFIG)]
        if None in stamps:
            raise ModelError(f"There is no adapter at {folder}.", hint="Use an adapter folder in mlx-lm's layout.")
        known = self._loaded.pop(folder, None)
        if known is None or known.stamps != stamps:
            before = self.active
            self.activate(None)
            try:
                known = LoadedAdapter(self._read(folder), stamps)
            finally:
                self._replace({name: self._base[name] for name in self._changed()})
                self.activate(before)
        self._loaded[folder] = known
        if len(self._loaded) > MAX_ADAPTERS:
            del self._loaded[next(iter(self._loaded))]
        return known

    def activate(self, adapter: LoadedAdapter | None) -> None:
        """Activate ``adapter``, or the base alone for ``None``."""
        if adapter is self.active:
            return
        base = {name: self._base[name] for name in self.active.modules} if self.active else {}
        self._replace(base | (adapter.modules if adapter else {}))
        self.active = adapter

    @property
    def adapters(self) -> list[LoadedAdapter]:
        return list(self._loaded.values())

    def _read(self, folder: Path) -> dict[str, nn.Module]:
        layout = read_layout(folder)
        lora.load(self.model, folder)
        modules = self._changed()
        if unmatched := sorted(modules.keys() ^ layout.modules.keys()):
            raise ModelError(f"The adapter in {folder} does not fit: {unmatched[0]} has no counterpart.", hint="Use its own base.")
        arrays = [module[own] for module in modules.values() for own in lora.ADAPTER_ARRAYS if own in module]
        if not mx.array([mx.isfinite(array).all() for array in arrays]).all().item():
            raise ModelError(f"The adapter in {folder} contains NaN or infinite values.", hint="Train it again, or use another.")
        return modules

    def _changed(self) -> dict[str, nn.Module]:
        """Return the modules of the model in place of the base's."""
        return {name: module for name, module in self.model.named_modules() if self._base.get(name, module) is not module}

    def _replace(self, modules: dict[str, nn.Module]) -> None:
        self.model.update_modules(tree_unflatten(list(modules.items())))
