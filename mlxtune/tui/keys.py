"""The keys of the app by the ids of their bindings, and what a settings file makes of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import Keys, format_key
from textual.screen import Screen
from textual.widget import Widget

from mlxtune.core.text import nearest, one_line
from mlxtune.tui.rooms import ROOMS

Kind = type[DOMNode]
Keymap = dict[str, str]  # the id of a binding to its keys, as Textual spells them, with commas

_NAMES = frozenset(str(key.value) for key in Keys)
_WORDS = {
    "enter": "enter",
    "space": "space",
    "escape": "esc",
    "backspace": "bksp",
}  # where Textual has a sign that not every font has
_MODIFIERS = frozenset(("ctrl", "shift", "alt", "super", "hyper", "meta"))


def owners() -> list[Kind]:
    """Every class of the app that binds keys: the app itself, rooms and pages, panes."""
    list(ROOMS.values())  # loads those that nobody has gone to yet
    found: list[Kind] = []
    waiting: list[Kind] = [App, Widget]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("mlxtune.") and "BINDINGS" in vars(kind):
            found.append(kind)
    return sorted(set(found), key=lambda kind: (not issubclass(kind, App), not issubclass(kind, Screen), kind.__qualname__))


@cache
def own(kind: Kind) -> tuple[Binding, ...]:
    """The bindings that ``kind`` itself brings, one for each of their keys."""
    return tuple(Binding.make_bindings(vars(kind).get("BINDINGS", ())))


def keymap(wanted: Mapping[str, str]) -> tuple[Keymap, list[str]]:
    """What of ``wanted``, keys by id, can be used; and a sentence for each that cannot.

    A key that another binding has in the same place, or everywhere, is refused: it would silence it.
    """
    kinds = owners()
    ids = {binding.id: kind for kind in kinds for binding in own(kind) if binding.id}
    good: Keymap = {}
    complaints: list[str] = []
    for id, keys in wanted.items():
        if id not in ids:
            hint = nearest(id, ids)
            complaints.append(f"There is no key {one_line(id)}." + (f" Did you mean {hint}?" if hint else ""))
            continue
        spelled = {key: _spelled(key) for part in keys.split(",") if (key := part.strip())}
        if bad := next((key for key, name in spelled.items() if name is None), None):
            complaints.append(f"{id}: no key is called {one_line(bad)}. Keys are x, ctrl+x, f2, space, enter.")
        else:
            good[id] = ",".join(name for name in spelled.values() if name)
    while clash := next(_clashes(good, kinds, ids), None):
        id, key, other = clash
        complaints.append(f"{id}: {shown(key)} is the key of {other} already.")
        del good[id]
    return good, complaints


def _clashes(good: Keymap, kinds: Iterable[Kind], ids: Mapping[str, Kind]) -> Iterator[tuple[str, str, str]]:
    """Ids of ``good``, each with a key of it and the id of another binding that has the same one where both are heard."""
    taken: list[tuple[Kind, str, str]] = [
        (kind, binding.id, key)
        for kind in kinds
        for binding in own(kind)
        if binding.id
        for key in (good[binding.id].split(",") if binding.id in good else [binding.key])
    ]
    for id, keys in good.items():
        kind = ids[id]
        for other, other_id, key in taken:
            together = issubclass(kind, other | App) or issubclass(other, kind | App)
            if together and other_id != id and key in keys.split(","):
                yield id, key, other_id


def _spelled(key: str) -> str | None:
    """``key`` as Textual spells it, or ``None`` if there is none of that name."""
    *modifiers, name = [key] if len(key) == 1 else key.split("+")
    if not name or not _MODIFIERS.issuperset(modifiers):
        return None
    if len(name) == 1 and not modifiers:
        return next(iter(Binding.make_bindings([Binding(name, "")]))).key
    return key if len(name) == 1 or name in _NAMES or _sign(name) else None


def _sign(name: str) -> bool:
    try:
        unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        return False
    return True


def shown(key: str) -> str:
    """A key as the app writes it: ``^p`` for ``ctrl+p``, ``[`` for ``left_square_bracket``, ``↑`` for ``up``."""
    *modifiers, name = key.split("+") if len(key) > 1 else [key]
    word = _WORDS.get(name) or format_key(name)
    return "".join("^" if modifier == "ctrl" else f"{modifier}+" for modifier in modifiers) + word


def names(changed: Keymap, kinds: Mapping[str, Kind]) -> dict[str, str]:
    """What is shown for the actions whose keys were changed, by action: ``kinds`` are classes by what their actions begin with."""
    return {
        f"{space}.{binding.action}": shown(changed[binding.id].split(",")[0])
        for space, kind in kinds.items()
        for parent in reversed(kind.__mro__)
        for binding in own(parent)
        if binding.id in changed
    }
