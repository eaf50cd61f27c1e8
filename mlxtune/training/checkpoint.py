"""Write and read checkpoints atomically, and refuse to resume from one with other settings.

A checkpoint is written to a temporary folder and flushed. Its manifest, with the SHA-256 of every file, is written last; then the
folder is renamed into place. A crash at any point leaves earlier checkpoints untouched. Names of incomplete folders start with a
dot.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.adapters.layout import LINEAGE
from mlxtune.core.errors import DataError, ModelError
from mlxtune.core.files import disk_errors, sync_folder, write_bytes, write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.models import lora
from mlxtune.models.resolve import same_base
from mlxtune.recipe import Recipe
from mlxtune.recipe.parent import CONFIG, WEIGHTS

MANIFEST = "manifest.json"
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, the number of completed optimizer steps, and the loop's state."""

    folder: Path
    step: int
    state: dict[str, Any]


def save(
    run: Path,
    model: nn.Module,
    optimizer: optim.Optimizer,
    config: dict[str, Any],
    state: dict[str, Any],
    keep: int,
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``run/checkpoints/0000120`` for ``state["step"]`` = 120, and remove all but the newest ``keep`` and the best one.

    With ``origin``, the lineage that adapters of the run share, the folder is an adapter like that of a finished run. Checkpoints
    of later steps are removed too: they are damaged, because the run was resumed from an earlier one. Raise ``MachineError`` on a
    full disk; earlier checkpoints are kept.
    """
    parent = run / "checkpoints"
    target = _folder(run, state["step"])
    scratch = parent / f".{target.name}"
    with disk_errors(f"step {state['step']:,}"):
        shutil.rmtree(scratch, ignore_errors=True)
        parent.mkdir(exist_ok=True)  # not its parents: the run's folder may have been deleted
        scratch.mkdir()
        lora.save(scratch, lora.adapter_arrays(model), config)
        if origin is not None:
            write_lineage(scratch, origin, state["step"])
        write_bytes(scratch / OPTIMIZER, lora.to_bytes(dict(sorted(tree_flatten(optimizer.state)))))
        write_json(scratch / STATE, state)
        write_json(scratch / MANIFEST, {file.name: sha256_file(file) for file in sorted(scratch.iterdir())})
        _remove(target)
        os.rename(scratch, target)
        sync_folder(parent)
    folders = _folders(run)
    index = folders.index(target)
    for old in (*folders[:index], *folders[index + keep :]):
        if old != _folder(run, state["best"]["step"]):
            _remove(old)
    return target


def write_lineage(adapter: Path, origin: Mapping[str, Any], step: int, **more: Any) -> None:
    """Write the lineage of the weights in ``adapter``, which are those after ``step``."""
    made = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    record = {**origin, "made": made, "weights": sha256_file(adapter / WEIGHTS), "steps": step, **more}
    write_json(adapter / LINEAGE, record)


def newest(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose files all match their manifest."""
    return next(filter(None, map(_verified, _folders(run))), None)


def find(run: Path, step: int) -> Checkpoint | None:
    """Return the checkpoint of ``step``, or ``None`` if it is missing or damaged."""
    return _verified(_folder(run, step))


def damaged_folders(run: Path) -> list[Path]:
    """Return the folders of checkpoints whose files do not match their manifest."""
    return [folder for folder in _folders(run) if _verified(folder) is None]


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: optim.Optimizer | None = None) -> None:
    """Load the adapter and optimizer of ``checkpoint``. Raise ``ModelError`` if they do not match the model."""
    adapter: Any = mx.load(str(checkpoint.folder / WEIGHTS))
    expected = {name: array.shape for name, array in lora.adapter_arrays(model).items()}
    if {name: array.shape for name, array in adapter.items()} != expected:
        raise ModelError(
            f"The shapes of the adapter in {checkpoint.folder} do not match the recipe.", hint="Resume with the original recipe."
        )
    model.load_weights(list(adapter.items()), strict=False)
    mx.eval(model.parameters())
    if optimizer is not None:
        arrays: Any = mx.load(str(checkpoint.folder / OPTIMIZER))
        optimizer.state = tree_unflatten(list(arrays.items()))
        mx.eval(optimizer.state)


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:07d}"


def _folders(run: Path) -> list[Path]:
    """Return the checkpoint folders, newest first."""
    return sorted((folder for folder in (run / "checkpoints").glob("[0-9]*") if folder.is_dir()), reverse=True)


def _remove(folder: Path) -> None:
    """Rename a checkpoint before deleting it, so that an interruption leaves no damaged one."""
    trash = folder.with_name(f".{folder.name}.old")
    with contextlib.suppress(OSError):
        os.rename(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _verified(folder: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if not manifest.keys() >= {OPTIMIZER, STATE, WEIGHTS, CONFIG} or any(
            sha256_file(folder / name) != digest for name, digest in manifest.items()
        ):
            return None
        state = json.loads((folder / STATE).read_text())
        return Checkpoint(folder, int(state["step"]), state)
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):  # also if it is not a manifest or a state
        return None


# Settings that change neither the weights of a step nor the number of steps.
_ADJUSTABLE = {
    "training": {
        "grad_checkpoint", "cache_frozen", "validate_every", "early_stop", "save_every", "samples", "keep", "wait_for",
    },
    "adapter": {"parent"},
}  # fmt: skip


def make_origin(recipe: Recipe, base: str, parent: str) -> dict[str, Any]:
    """Return what must not change when a run resumes: settings, the base's fingerprint, and the parent's hash or ``""``."""
    sections = {"adapter": asdict(recipe.adapter), "method": asdict(recipe.method), "training": asdict(recipe.training)}
    settings = {
        f"{section}.{key}": value
        for section, values in sections.items()
        for key, value in values.items()
        if key not in _ADJUSTABLE.get(section, ())
    }
    return {"base": base, "parent": parent, "model.quantize": recipe.model.quantize, **settings}


def check_origin(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
    """Raise ``ModelError`` for another base or parent than ``before``, if it is known, or ``DataError`` for another setting."""
    until = f"up to its checkpoint at step {step:,}"
    same = {"base": same_base(before["base"], now["base"]), "parent": before["parent"] == now["parent"]} if before else {}
    if changed := next((name for name, is_same in same.items() if not is_same), None):
        raise ModelError(
            f"The {changed}'s weights differ from those that the run used {until}.", hint="Restore them, or start a new run."
        )
    for key in before.keys() & now.keys() - {"base", "parent"}:
        if before[key] != now[key]:
            hint = "Restore it in the run's recipe.toml, or start a new run."
            raise DataError(f"{key} is {now[key]}, but the run used {before[key]} {until}.", hint=hint)
