"""How the app was left in a workspace, so that it comes back as it was: a small file in mlxtune's home folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import home, read_json, write_json
from mlxtune.core.hashing import sha256_json

_VERSION = 1


def recall(workspace: Path) -> dict[str, Any]:
    """What was remembered of ``workspace``; nothing where nothing was, and where the file is broken or of another version."""
    try:
        found = read_json(_file(workspace))
    except InputError:
        return {}
    known = isinstance(found, dict) and found.get("v") == _VERSION and isinstance(found.get("left"), dict)
    return found["left"] if known else {}


def remember(workspace: Path, left: Mapping[str, Any]) -> None:
    """Keep ``left``, a JSON object, for the next time. Raises ``MachineError`` when it cannot be written."""
    write_json(_file(workspace), {"v": _VERSION, "workspace": str(workspace.resolve()), "left": dict(left)})


def _file(workspace: Path) -> Path:
    return home() / "sessions" / f"{sha256_json(str(workspace.resolve()))[:16]}.json"
