"""``open``: open the app in a room, on a recipe, a row, a run, an evaluation, or an adapter."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from mlxtune.adapters import library
from mlxtune.cli.options import argument
from mlxtune.cli.output import terminal_error
from mlxtune.cli.start import open_app
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, suggest
from mlxtune.recipe import load
from mlxtune.runs import registry


def open_room(
    room: Annotated[str, argument("The room, for example train.")],
    item: Annotated[str, argument("A recipe, a row's ID, a run, an evaluation, or an adapter.")] = "",
) -> None:
    """Open the app in one of its rooms (screens)."""
    name = room.lower()
    if name not in ROOM_ITEMS:
        raise InputError(f"There is no room named {one_line(room, 40)}.", hint=suggest(name, ROOM_ITEMS))
    find = ROOM_ITEMS[name]
    if item and find is None:
        raise InputError(f"The room {name} does not accept an item.", hint=f"mlxtune open {name}")
    state = find(Path.cwd(), item) if item and find else {}
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise terminal_error()
    open_app({"room": name, **state})


def _recipe(workspace: Path, which: str) -> dict[str, Any]:
    path = Path(which) if which.endswith(".toml") else workspace / "recipes" / f"{which}.toml"
    load(path)
    try:
        return {"recipe": path.resolve().relative_to(workspace.resolve()).as_posix()}
    except ValueError as error:
        raise InputError(f"{path} is outside this workspace.", hint="Open the app in its workspace.") from error


# For each room that accepts an item, a function that returns the saved app state that shows the item.
ROOM_ITEMS: Mapping[str, Callable[[Path, str], dict[str, Any]] | None] = {
    "home": None,
    "data": _recipe,
    "groups": None,
    "review": lambda _workspace, which: {"row": which},
    "plan": _recipe,
    "train": lambda workspace, which: {"run": registry.find_run(workspace, which).id},
    "evaluate": lambda workspace, which: {"rooms": {"evaluate": {"evaluation": registry.find_run(workspace, which, "eval").id}}},
    "blind": None,
    "adapters": lambda workspace, which: {"rooms": {"adapters": {"key": library.find(workspace, which).key}}},
    "chat": lambda workspace, which: {"adapter": library.find_usable(workspace, which).key},
    "advice": None,
}
