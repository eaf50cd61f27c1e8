"""The app's state in a workspace when it was last closed, stored in a small file in mlxtune's home folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.files import home, read_state, write_json
from mlxtune.core.hashing import sha256_json

_VERSION = 1


def load(workspace: Path) -> dict[str, Any]:
    """Return the saved state of ``workspace``. Empty if there is none, it is invalid, or its version differs."""
    state = read_state(_file(workspace), _VERSION).get("left")
    return state if isinstance(state, dict) else {}


def last_saved(workspace: Path) -> float | None:
    """Return when the state was last saved, in seconds since the epoch; ``None`` if never."""
    try:
        return _file(workspace).stat().st_mtime
    except OSError:
        return None


def save(workspace: Path, state: Mapping[str, Any]) -> None:
    """Save ``state``, a JSON object. Raise ``MachineError`` if it cannot be written."""
    write_json(_file(workspace), {"v": _VERSION, "workspace": str(workspace.resolve()), "left": dict(state)})


def _file(workspace: Path) -> Path:
    return home() / "sessions" / f"{sha256_json(str(workspace.resolve()))[:16]}.json"
