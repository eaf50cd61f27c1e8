"""Let an adapter in from elsewhere: mlx-lm's folder or PEFT's, checked before it is opened, copied whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune import __version__
from mlxtune.adapters import peft
from mlxtune.adapters.check import check_finite, check_fits, check_folder, check_name
from mlxtune.adapters.entry import AdapterEntry, lineage, told_score
from mlxtune.adapters.layout import LINEAGE, Layout, read_config, read_layout
from mlxtune.adapters.library import FOLDER, changing, check_free, find
from mlxtune.core.errors import ModelError
from mlxtune.core.files import disk_errors, sync_folder, write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.core.safetensors import read_header
from mlxtune.core.text import one_line
from mlxtune.models.bundled import Progress
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.recipe.parent import CONFIG, WEIGHTS

_KEPT = ("method", "run", "recipe_hash", "data_hash", "steps", "validation")  # of its maker's lineage


def import_adapter(
    workspace: Path,
    folder: Path,
    name: str = "",
    base: str = "",
    *,
    origin: str = "",
    other_weights: bool = False,
    progress: Progress = lambda what, share: None,
) -> AdapterEntry:
    """Copy the adapter in ``folder`` to ``adapters/NAME``, in mlx-lm's layout and bound to the weights of its base.

    ``base`` is the model that it belongs to; left out, the one that it names, if that is on this machine. ``other_weights`` lets in an
    adapter that was made on other weights of the same shapes (another quantisation), without the scores that it had there.
    ``origin`` is where it came from, its folder where that is left out. Raises ``ModelError`` with the reason when it may not come in,
    ``InputError`` for a name that cannot be.
    """
    name = check_name(name or folder.resolve().name)
    config, weights = _open(folder)
    told = lineage(folder)
    source = find_base(folder, base, progress)
    strange = bool(told.get("base_fingerprint")) and told["base_fingerprint"] != source.fingerprint
    if strange and not other_weights:
        raise ModelError(
            f"The adapter was made on other weights of its base than those of {one_line(source.name, 80)}.",
            mend="Its scores do not hold there. --other-weights takes it without them.",
        )
    check_free(workspace, name)
    parent = workspace / FOLDER
    with disk_errors(f"the adapter {name}"):
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=".import-"))
        try:
            progress("checking its weights", 0.0)
            found = _copy(config, weights, source, scratch)
            os.chmod(scratch, 0o755)
            write_json(scratch / CONFIG, found.config | {"model": str(source.folder)})
            write_json(scratch / LINEAGE, _lineage(told, source, origin or str(folder.resolve()), strange, scratch / WEIGHTS))
            with changing(workspace):
                check_free(workspace, name)
                os.rename(scratch, parent / name)
            sync_folder(parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return find(workspace, f"{FOLDER}/{name}")


def _open(folder: Path) -> tuple[dict[str, Any], Path]:
    """The configuration in ``folder``, and the file of its weights, if both are what may be read."""
    ours = folder / WEIGHTS
    theirs = folder / peft.FILE
    weights = theirs if theirs.exists() and not ours.exists() else ours
    check_folder(folder, weights.name)
    config = read_config(folder / CONFIG)
    if peft.is_peft(config) != (weights == theirs):
        raise ModelError(f"{folder}: {CONFIG} is {'PEFT' if peft.is_peft(config) else 'mlx-lm'}'s, and {weights.name} is not.")
    return config, weights


def find_base(folder: Path, asked: str, progress: Progress = lambda what, share: None) -> ModelFolder:
    """The base of the adapter in ``folder``: the one ``asked`` for, or the one it names, which is not fetched: nobody asked for that.

    Raises ``ModelError`` when it names none, or one that is not on this machine.
    """
    if asked:
        return resolve(asked, progress=progress)
    told, config = lineage(folder), read_config(folder / CONFIG)
    named = told.get("base") or config.get("base_model_name_or_path") or config.get("model")
    if not named or not isinstance(named, str):
        raise ModelError("The adapter does not say which model it belongs to.", mend="Name it: --base MODEL")
    try:
        return resolve(named, fetch=False)
    except ModelError as error:
        raise ModelError(
            f"The adapter belongs to {one_line(named, 120)}, which is not on this machine.",
            mend="Name the model to use it on: --base MODEL",
        ) from error


def _copy(config: Mapping[str, Any], weights: Path, source: ModelFolder, target: Path) -> Layout:
    """The weights in ``target``, in mlx-lm's layout and checked there, where nobody else writes."""
    read_header(weights)
    shutil.copyfile(weights, target / weights.name, follow_symlinks=False)
    if weights.name == peft.FILE:
        write_json(target / CONFIG, peft.convert(target, config, source))
        (target / peft.FILE).unlink()
    else:
        write_json(target / CONFIG, dict(config))
    found = read_layout(target)
    check_fits(found, source)
    check_finite(target / WEIGHTS)
    return found


def _lineage(told: Mapping[str, Any], source: ModelFolder, origin: str, strange: bool, weights: Path) -> dict[str, Any]:
    """Its maker's lineage, and what is known of it here."""
    made = told.get("made")
    kept = {key: told[key] for key in _KEPT if isinstance(told.get(key), str | int | float)}
    scored = {} if strange or told_score(told) is None else {"evaluation": told["evaluation"]}
    return {
        "v": 1,
        "mlxtune": __version__,
        "made": made if isinstance(made, str) else time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "imported": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "origin": origin,
        "base": str(source.folder) if Path(source.name).expanduser().is_dir() else source.name,
        "base_fingerprint": source.fingerprint,
        "weights": sha256_file(weights),
        **kept,
        **scored,
        "parent": told.get("parent") if isinstance(told.get("parent"), dict) else None,
    }
