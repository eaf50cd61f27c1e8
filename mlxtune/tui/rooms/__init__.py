"""The table of rooms. Tabs, keys, the command palette and help are generated from it.

To add a room, create its folder ``rooms/<mode>`` with a ``screen.py`` that defines ``<Name>Room``, and add a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxtune.tui.room import Room


@dataclass(frozen=True)
class RoomEntry:
    """A room's name, and its key: a letter of the name, underlined in the tab. A room ``inside`` another one has no tab of its own."""

    name: str
    key: str
    inside: str = ""

    @property
    def mode(self) -> str:
        """The room's name in :meth:`action_room` and in bindings, and the name of its folder."""
        return self.name.lower()

    def load(self) -> type[Room]:
        """Import the room's class. Rooms are loaded when they are first opened, so that startup waits for only one."""
        room: type[Room] = getattr(import_module(f"mlxtune.tui.rooms.{self.mode}.screen"), f"{self.name}Room")
        return room


ROOMS: Mapping[str, RoomEntry] = {
    entry.mode: entry
    for entry in (
        RoomEntry("Home", "H"),
        RoomEntry("Data", "D"),
        RoomEntry("Groups", "G", inside="data"),
        RoomEntry("Review", "R"),
        RoomEntry("Plan", "P"),
        RoomEntry("Train", "T"),
        RoomEntry("Evaluate", "E"),
        RoomEntry("Blind", "B"),
        RoomEntry("Adapters", "A"),
        RoomEntry("Chat", "C"),
        RoomEntry("Advice", "V"),
    )
}
