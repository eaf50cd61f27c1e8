"""Format paths and model names in a short form that is safe to display."""

from __future__ import annotations

from pathlib import Path

from mlxtune.core.text import one_line


def relative_paths(folder: Path, text: str) -> str:
    """Make the paths in ``text`` that are inside ``folder`` relative to it."""
    return text.replace(f"{one_line(str(folder.resolve()))}/", "")


def display_path(path: Path, folder: Path, default: str) -> str:
    """Return ``path`` relative to ``folder``, or ``default`` if it is outside ``folder``."""
    path, folder = path.resolve(), folder.resolve()
    return one_line(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else default)


def base_name(base: str) -> str:
    """Return the name of a base model: a folder's own name, or the name in the recipe."""
    return one_line(Path(base).name or base if base.startswith(("/", ".", "~")) else base)
