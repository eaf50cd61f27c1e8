"""Checkpoints that are whole or absent.

A checkpoint is written to a temporary folder and flushed; its manifest with every file's sha256 comes last; then the folder is
renamed into place. A crash at any moment leaves the checkpoints before it untouched; what it left half-done begins with a dot.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.core.errors import ModelError
from mlxtune.core.files import disk_errors, sync_folder, write_bytes, write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.models import lora

MANIFEST = "manifest.json"
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, the optimizer steps done, and what the loop keeps beside the arrays."""

    folder: Path
    step: int
    state: dict[str, Any]


def save(run: Path, model: nn.Module, optimizer: optim.Optimizer, config: dict[str, Any], state: dict[str, Any], keep: int) -> Path:
    """Write ``run/checkpoints/0000120`` for ``state["step"]`` = 120; all but the newest ``keep`` and the one of ``state["best"]`` go.

    So do those of later steps: the run went on from before them, because they are damaged.

    Raises ``MachineError`` on a full disk; earlier checkpoints stay.
    """
    parent = run / "checkpoints"
    target = _folder(run, state["step"])
    scratch = parent / f".{target.name}"
    with disk_errors(f"step {state['step']:,}"):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        lora.save(scratch, lora.weights(model), config)
        write_bytes(scratch / OPTIMIZER, lora.to_bytes(dict(sorted(tree_flatten(optimizer.state)))))
        write_json(scratch / STATE, state)
        write_json(scratch / MANIFEST, {file.name: sha256_file(file) for file in sorted(scratch.iterdir())})
        _remove(target)
        os.rename(scratch, target)
        sync_folder(parent)
    found = _folders(run)
    newest = found.index(target)
    for old in (*found[:newest], *found[newest + keep :]):
        if old != _folder(run, state["best"]["step"]):
            _remove(old)
    return target


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint whose files all match their manifest; torn or damaged ones are passed over."""
    return next((found for found in map(_verified, _folders(run)) if found), None)


def at(run: Path, step: int) -> Checkpoint | None:
    """The checkpoint of ``step``, if it is there and whole."""
    return _verified(_folder(run, step))


def damaged(run: Path) -> list[Path]:
    """Checkpoints whose files do not match their manifest."""
    return [folder for folder in _folders(run) if _verified(folder) is None]


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: optim.Optimizer | None = None) -> None:
    """Put adapter and optimizer of ``checkpoint`` back. Raises ``ModelError`` when they do not fit."""
    adapter: Any = mx.load(str(checkpoint.folder / lora.WEIGHTS))
    expected = {name: array.shape for name, array in lora.weights(model).items()}
    if {name: array.shape for name, array in adapter.items()} != expected:
        raise ModelError(f"{checkpoint.folder} was made with another adapter than the recipe's.")
    model.load_weights(list(adapter.items()), strict=False)
    mx.eval(model.parameters())
    if optimizer is not None:
        arrays: Any = mx.load(str(checkpoint.folder / OPTIMIZER))
        optimizer.state = tree_unflatten(list(arrays.items()))
        mx.eval(optimizer.state)


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:07d}"


def _folders(run: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted((folder for folder in (run / "checkpoints").glob("[0-9]*") if folder.is_dir()), reverse=True)


def _remove(folder: Path) -> None:
    """Take a checkpoint away in one move: half of one would be told as damaged."""
    gone = folder.with_name(f".{folder.name}.old")
    with contextlib.suppress(OSError):
        os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _verified(folder: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if any(sha256_file(folder / name) != digest for name, digest in manifest.items()):
            return None
        state = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return None
    return Checkpoint(folder, state["step"], state)
