"""Find adapters for a loaded base model by their library names. Does not import mlx, because the CLI and the app use it."""

from __future__ import annotations

from pathlib import Path

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.layout import read_config
from mlxtune.core.errors import InputError, ModelError
from mlxtune.models import bundled
from mlxtune.models.resolve import same_base
from mlxtune.recipe.parent import CONFIG


def compatible_adapters(workspace: Path, fingerprint: str) -> list[AdapterEntry]:
    """Return the adapters of ``workspace`` for the base with this ``fingerprint``, newest first.

    Includes adapters that do not record their base; loading them shows whether they match.
    """
    return [entry for entry in library.all_adapters(workspace) if not entry.problem and same_base(entry.base_hash, fingerprint)]


def find_adapter(workspace: Path, which: str, fingerprint: str) -> AdapterEntry:
    """Return the adapter ``which``, resolved by the library. Raises ``ModelError`` if it belongs to another base."""
    entry = library.find_usable(workspace, which)
    if not same_base(entry.base_hash, fingerprint):
        raise ModelError(
            f"{entry.name} was trained from different weights: {entry.base}.", hint=f"Load that base: mlxtune chat {entry.name}"
        )
    return entry


def base_of(entry: AdapterEntry) -> str:
    """Return the base to load for ``entry``: an alias or a Hub ID, which also works on other machines, or else a folder.

    A recipe's path to a folder may be relative to the recipe, so the folder recorded in the adapter is used. Raises ``InputError``
    when the base is not recorded.
    """
    recorded = str(read_config(entry.folder / CONFIG).get("model") or "")
    portable = bool(bundled.find(entry.base)) or f"models--{entry.base.replace('/', '--')}" in recorded
    base = entry.base if portable or not Path(recorded).is_dir() else recorded
    if not base:
        raise InputError(f"{entry.name} does not record its base model.", hint="Specify it: mlxtune chat BASE --adapter NAME")
    return base
