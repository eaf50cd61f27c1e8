"""Places on this machine as the app names them: in a few cells, seen from the workspace."""

from __future__ import annotations

from pathlib import Path

from mlxtune.core.text import one_line


def seen_from(folder: Path, text: str) -> str:
    """``text`` with the paths in ``folder`` as they are seen from there."""
    return text.replace(f"{one_line(str(folder.resolve()))}/", "")


def called(place: Path, folder: Path, otherwise: str) -> str:
    """``place`` as it is seen from ``folder``, safe to show; ``otherwise`` where it is not in there."""
    real, root = place.resolve(), folder.resolve()
    return one_line(real.relative_to(root).as_posix() if real.is_relative_to(root) else otherwise)


def base_name(base: str) -> str:
    """What a base is called, safe to show: a folder by its own name, any other as the recipe names it."""
    return one_line(Path(base).name or base if base.startswith(("/", ".", "~")) else base)
