"""The sample workspace: an outdoor shop's support desk, its recipe and its data."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlxtune
from mlxtune.core.errors import InputError
from mlxtune.core.files import disk_errors

RECIPE = Path("recipes/support-json.toml")
_BESIDE = (".split.json", ".review.jsonl", ".lock")  # what working on a source leaves beside it
VOICE = Path("recipes/brand-voice.toml")  # its child, on preference pairs


def root() -> Path:
    """Where the shipped ``recipes/`` and ``data/samples/`` lie: in the package, or beside it in a clone."""
    package = Path(mlxtune.__file__).parent
    return next((place for place in (package / "samples", package.parent) if (place / RECIPE).is_file()), package.parent)


def around(folder: Path) -> Path | None:
    """The workspace that ``folder`` would lie in, if it would lie in one. A clone has recipes too, and is none."""
    return next((parent for parent in folder.resolve().parents if parent != root() and any(parent.glob("recipes/*.toml"))), None)


def create(folder: Path) -> Path:
    """Copy the sample workspace into ``folder`` and return its recipe. Raises ``InputError`` rather than overwrite a file."""
    source = root()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, so no workspace can be made there.", mend="Choose another folder.")
    files = [
        file.relative_to(source)
        for name in ("recipes", "data/samples")
        for file in sorted((source / name).rglob("*"))
        if file.is_file() and not file.name.endswith(_BESIDE)
    ]
    taken = [file for file in files if (folder / file).exists()]
    if taken:
        raise InputError(f"{folder / taken[0]} is there already, so nothing was written.", mend="Choose another folder.")
    with disk_errors(str(folder)):
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, folder / file)
    return folder / RECIPE
