"""The adapters that can be put on a loaded base, by the library's names. No mlx here: faces read it."""

from __future__ import annotations

from pathlib import Path

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.layout import read_config
from mlxtune.core.errors import InputError, ModelError
from mlxtune.models import bundled
from mlxtune.recipe.parent import CONFIG


def fitting(workspace: Path, fingerprint: str) -> list[AdapterEntry]:
    """The adapters of ``workspace`` that can be used on the base with that ``fingerprint``, newest first.

    Those that do not say which weights they belong to are among them: whether they fit shows when they are loaded.
    """
    return [entry for entry in library.all_adapters(workspace) if not entry.problem and entry.base_hash in ("", fingerprint)]


def find(workspace: Path, which: str, fingerprint: str) -> AdapterEntry:
    """The adapter meant by ``which``, as the library finds it. Raises ``InputError`` where it is not one of that base."""
    entry = library.usable(workspace, which)
    if entry.base_hash not in ("", fingerprint):
        raise ModelError(
            f"{entry.name} belongs to other weights: those of {entry.base}.", mend=f"Load that base: mlxtune chat {entry.name}"
        )
    return entry


def base_of(entry: AdapterEntry) -> str:
    """What to load for ``entry``: an alias or a hub id, which other machines know too, or else the folder that it was made on.

    A recipe may call a folder by a path that only means something beside the recipe. Raises ``InputError`` where nothing says it.
    """
    made_on = str(read_config(entry.folder / CONFIG).get("model") or "")
    known = entry.base == bundled.ALIAS or f"models--{entry.base.replace('/', '--')}" in made_on
    base = entry.base if known or not Path(made_on).is_dir() else made_on
    if not base:
        raise InputError(f"{entry.name} does not say which base it belongs to.", mend="Name it: mlxtune chat BASE --adapter NAME")
    return base
