"""The rooms, in the order of the journey. Each is loaded when it is first gone to, so that the first picture waits for one alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxtune.tui.screens.room import Room


class Rooms(Mapping[str, "type[Room]"]):
    """The class of each room by its mode: the name in small letters, which is also that of its module in ``screens``."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __getitem__(self, mode: str) -> type[Room]:
        if mode not in self:
            raise KeyError(mode)
        room: type[Room] = getattr(import_module(f"mlxtune.tui.screens.{mode}"), mode.capitalize())
        return room

    def __contains__(self, mode: object) -> bool:
        return any(name.lower() == mode for name in self.names)

    def __iter__(self) -> Iterator[str]:
        return (name.lower() for name in self.names)

    def __len__(self) -> int:
        return len(self.names)


ROOMS = Rooms("Home", "Data", "Review", "Plan", "Train", "Evaluate", "Blind", "Adapters", "Chat", "adVice")
