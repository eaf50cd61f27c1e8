"""The state of the app that comes back after a restart, in a file per workspace: the room, the run, the recipe, and what each room saves."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import home, read_state, write_json
from mlxtune.core.hashing import sha256_json

_VERSION = 1


class SavedState:
    """The state as it was last saved, over which ``given`` takes precedence. Nothing in it is validated."""

    def __init__(self, workspace: Path, given: Mapping[str, Any], *, is_kept: bool) -> None:
        self._workspace = workspace
        self._on_disk = load(workspace) if is_kept else {}
        self.last_visit = last_saved(workspace) if is_kept else None  # in seconds since the epoch
        self._lock = threading.Lock()
        rooms = self._on_disk.get("rooms")
        self.values: dict[str, Any] = {**self._on_disk, **given}
        self.values["rooms"] = {**(rooms if isinstance(rooms, dict) else {}), **given.get("rooms", {})}

    def of_room(self, mode: str) -> dict[str, Any]:
        rooms = self.values.get("rooms")
        state = rooms.get(mode) if isinstance(rooms, dict) else None
        return state if isinstance(state, dict) else {}

    def run(self) -> str | None:
        """Return the ID of the run that was shown, if it still exists."""
        run = self.values.get("run")
        with suppress(OSError, ValueError):  # the name may not be a valid file name
            if isinstance(run, str) and (self._workspace / "runs" / run / "recipe.toml").is_file():
                return run
        return None

    def recipe(self) -> Path | None:
        recipe = self.values.get("recipe")
        return self._workspace / recipe if isinstance(recipe, str) and not Path(recipe).is_absolute() else None

    def write(self, *, visited: bool = False) -> None:
        """Write the state if it has changed, or if a visit ends, which the file's modification time records. Errors are ignored."""
        with self._lock:
            state = self.values
            if visited or state != self._on_disk:
                self._on_disk = state
                with suppress(MlxtuneError, OSError):
                    save(self._workspace, state)


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
    """Save ``state``, a JSON object, in mlxtune's home folder. Raise ``MachineError`` if it cannot be written."""
    write_json(_file(workspace), {"v": _VERSION, "workspace": str(workspace.resolve()), "left": dict(state)})


def _file(workspace: Path) -> Path:
    return home() / "sessions" / f"{sha256_json(str(workspace.resolve()))[:16]}.json"
