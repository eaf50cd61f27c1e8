"""The sample workspace: an outdoor shop's support desk with its recipes and data."""

import shutil
from pathlib import Path

import mlxtune
from mlxtune.core.errors import InputError
from mlxtune.core.files import disk_errors

RECIPE = Path("recipes/support-json.toml")
QUICK = Path("recipes/desk.toml")  # trains in two minutes
_SIDECARS = (".split.json", ".review.jsonl", ".generated.jsonl", ".lock")


def samples_root() -> Path:
    """Return the folder with the shipped ``recipes/`` and ``data/samples/``: in the package, or next to it in a clone."""
    package = Path(mlxtune.__file__).parent
    return next((root for root in (package / "samples", package.parent) if (root / RECIPE).is_file()), package.parent)


def enclosing_workspace(folder: Path) -> Path | None:
    """Return the workspace that contains ``folder``, or ``None``. A clone of mlxtune has recipes but is not a workspace."""
    root = samples_root()
    return next((parent for parent in folder.resolve().parents if parent != root and any(parent.glob("recipes/*.toml"))), None)


def is_workspace(folder: Path) -> bool:
    """Return whether ``folder`` has recipes or runs of any kind."""
    return any(folder.glob("recipes/*.toml")) or any((folder / name).is_dir() for name in ("runs", "evals", "searches"))


def nearest_workspace(folder: Path) -> Path | None:
    """Return the workspace that contains ``folder`` or is directly in it. ``None`` if there is none, or ``folder`` is one itself."""
    if is_workspace(folder):
        return None
    below = (child for child in sorted(folder.iterdir()) if not child.name.startswith(".") and is_workspace(child))
    return enclosing_workspace(folder) or next(below, None)


def create(folder: Path) -> Path:
    """Copy the sample workspace into ``folder`` and return its recipe. Raises ``InputError`` if a file already exists."""
    source = samples_root()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, so it cannot be a workspace.", hint="Choose another folder.")
    files = [
        file.relative_to(source)
        for name in ("recipes", "data/samples")
        for file in sorted((source / name).rglob("*"))
        if file.is_file() and not file.name.endswith(_SIDECARS)
    ]
    if existing := next((file for file in files if (folder / file).exists()), None):
        raise InputError(f"{folder / existing} already exists, so nothing was written.", hint="Choose another folder.")
    with disk_errors(str(folder)):
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, folder / file)
    return folder / RECIPE
