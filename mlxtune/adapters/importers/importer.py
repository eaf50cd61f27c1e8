"""Import an adapter in mlx-lm or PEFT format. It is checked before it is opened, and copied completely or not at all."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune import __version__
from mlxtune.adapters.entry import AdapterEntry, read_lineage, score_from_lineage
from mlxtune.adapters.importers import peft
from mlxtune.adapters.importers.checks import check_finite, check_fits, check_folder
from mlxtune.adapters.layout import LINEAGE, parse_layout, read_config
from mlxtune.adapters.library import FOLDER, check_name, find, lock_library, require_free_name
from mlxtune.core.child_process import Progress, quiet
from mlxtune.core.errors import ModelError
from mlxtune.core.files import disk_errors, sync_folder, write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.core.safetensors import read_header
from mlxtune.core.text import one_line
from mlxtune.models.resolve import ModelFolder, resolve, same_base
from mlxtune.recipe.parent import CONFIG, WEIGHTS

# Keys that are copied from the author's lineage
_KEPT = ("method", "run", "recipe_hash", "data_hash", "steps", "validation", "thinking", "date", "template")


def import_adapter(
    workspace: Path, folder: Path, name: str = "", base: str = "", *, origin: str = "", other_weights: bool = False,
    progress: Progress = quiet,
) -> AdapterEntry:  # fmt: skip
    """Copy the adapter in ``folder`` to ``adapters/NAME``, in mlx-lm's layout.

    ``base`` is its base; the default is the base that the adapter names, if it is on this machine. ``other_weights`` accepts an
    adapter trained from different weights of the same shapes (such as another quantization), and drops its scores. ``origin`` is
    its source, by default ``folder``. Raise ``ModelError`` if the adapter is rejected, and ``InputError`` if the name is invalid or
    taken.
    """
    name = check_name(name or folder.resolve().name)
    weights = check_folder(folder, WEIGHTS, peft.FILE)
    config = read_config(folder / CONFIG)
    if (is_peft := "peft_type" in config) != (weights == peft.FILE):
        maker = "PEFT" if is_peft else "mlx-lm"
        raise ModelError(f"{folder}: {CONFIG} is in {maker} format, but {weights} is not.")
    lineage = read_lineage(folder)
    source = find_base(folder, base, progress)
    base_differs = not same_base(str(lineage.get("base_fingerprint") or ""), source.fingerprint)
    if base_differs and not other_weights:
        hint = "Use its own base, or use --other-weights to import it without its scores."
        raise ModelError(f"The adapter was trained from different weights than {one_line(source.name, 80)}.", hint=hint)
    require_free_name(workspace, name)
    parent = workspace / FOLDER
    with disk_errors(f"the adapter {name}"):
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=".import-"))
        try:
            progress("checking weights", 0.0)
            _copy_weights(folder / weights, config, source, scratch)
            os.chmod(scratch, 0o755)
            own = _lineage(lineage, source, origin or str(folder.resolve()), base_differs, scratch / WEIGHTS)
            write_json(scratch / LINEAGE, own)
            with lock_library(workspace):
                require_free_name(workspace, name)
                os.rename(scratch, parent / name)
            sync_folder(parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return find(workspace, f"{FOLDER}/{name}")


def find_base(folder: Path, base: str, progress: Progress = quiet) -> ModelFolder:
    """Return ``base``, or else the base that the adapter names. Raise ``ModelError`` if it names none that is on this machine."""
    if base:
        return resolve(base, progress=progress)
    lineage, config = read_lineage(folder), read_config(folder / CONFIG)
    name = lineage.get("base") or config.get("base_model_name_or_path") or config.get("model")
    if not name or not isinstance(name, str):
        raise ModelError("The adapter does not name its base.", hint="Specify it: --base MODEL")
    try:
        return resolve(name, fetch=False)
    except ModelError as error:
        message = f"The adapter's base, {one_line(name, 120)}, is not on this machine."
        raise ModelError(message, hint="Specify the model to use: --base MODEL") from error


def _copy_weights(weights: Path, config: Mapping[str, Any], source: ModelFolder, target: Path) -> None:
    """Copy weights and configuration into ``target`` in mlx-lm's layout, and check the copies, which nothing else can change."""
    read_header(weights)
    shutil.copyfile(weights, target / weights.name, follow_symlinks=False)
    if weights.name == peft.FILE:
        config = peft.convert(target, config, source)
        (target / peft.FILE).unlink()
    layout = parse_layout(config, read_header(target / WEIGHTS), target)
    check_fits(layout, source)
    check_finite(target / WEIGHTS)
    write_json(target / CONFIG, layout.config | {"model": str(source.folder)})


def _lineage(lineage: Mapping[str, Any], source: ModelFolder, origin: str, base_differs: bool, weights: Path) -> dict[str, Any]:
    made, parent = lineage.get("made"), lineage.get("parent")
    kept = {key: lineage[key] for key in _KEPT if isinstance(lineage.get(key), str | int | float)}
    if not base_differs and score_from_lineage(lineage):
        kept["evaluation"] = lineage["evaluation"]
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {
        "v": 1, "mlxtune": __version__, "made": made if isinstance(made, str) else now, "imported": now, "origin": origin,
        "base": str(source.folder) if Path(source.name).expanduser().is_dir() else source.name,
        "base_fingerprint": source.fingerprint, "weights": sha256_file(weights), **kept,
        "parent": parent if isinstance(parent, dict) else None,
    }  # fmt: skip
