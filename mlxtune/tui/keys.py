"""The app's key bindings by ID, and the changes that a settings file makes to them."""

import importlib
import pkgutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import Keys, format_key
from textual.screen import Screen
from textual.widget import Widget

import mlxtune.tui
from mlxtune.core.text import nearest, one_line

Kind = type[DOMNode]
Keymap = dict[str, str]  # from a binding's ID to its keys: Textual's names, separated by commas

_NAMES = frozenset(str(key.value) for key in Keys)
_LABELS = {"enter": "enter", "space": "space", "escape": "esc", "backspace": "bksp"}  # Textual's symbols are not in every font
_MODIFIERS = frozenset(("ctrl", "shift", "alt", "super", "hyper", "meta"))


def binding_classes() -> list[Kind]:
    """Return every class of this package that binds keys: the app, screens, and widgets."""
    for module in pkgutil.walk_packages(mlxtune.tui.__path__, "mlxtune.tui."):
        importlib.import_module(module.name)
    classes: set[Kind] = set()
    pending: list[Kind] = [App, Widget]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__.startswith("mlxtune.") and "BINDINGS" in vars(kind):
            classes.add(kind)
    return sorted(classes, key=lambda kind: (not issubclass(kind, App), not issubclass(kind, Screen), kind.__qualname__))


@cache
def own_bindings(kind: Kind) -> tuple[Binding, ...]:
    """Return the bindings that ``kind`` itself defines, one for each key."""
    return tuple(Binding.make_bindings(vars(kind).get("BINDINGS", ())))


def build_keymap(settings: Mapping[str, str]) -> tuple[Keymap, list[str]]:
    """Return the valid entries of ``settings`` (keys by binding ID), and an error message for each invalid one.

    A key that another binding uses in the same place is an error, because one of the two would not work.
    """
    classes = binding_classes()
    ids = {binding.id: kind for kind in classes for binding in own_bindings(kind) if binding.id}
    keymap: Keymap = {}
    errors: list[str] = []
    for id, keys in settings.items():
        if id not in ids:
            suggestion = nearest(id, ids)
            errors.append(f"Unknown key binding {one_line(id)}." + (f" Did you mean {suggestion}?" if suggestion else ""))
            continue
        names = {key: _key_name(key) for part in keys.split(",") if (key := part.strip())}
        if unknown := next((key for key, name in names.items() if name is None), None):
            errors.append(f"{id}: unknown key {one_line(unknown)}. Examples of valid keys: x, ctrl+x, f2, space, enter.")
        else:
            keymap[id] = ",".join(name for name in names.values() if name)
    while conflict := next(_conflicts(keymap, classes, ids), None):
        id, key, other = conflict
        errors.append(f"{id}: {display_key(key)} is already bound to {other}.")
        del keymap[id]
    return keymap, errors


def build_command_keys(keys: Iterable[str], keymap: Keymap) -> tuple[dict[str, str], list[str]]:
    """Return Textual's name for each key of a user's command, and an error message for each that is invalid or already bound."""
    used = {key: id for _, id, key in _bound_keys(keymap, binding_classes())}
    names: dict[str, str] = {}
    errors: list[str] = []
    for key in keys:
        if (name := _key_name(key)) is None:
            errors.append(f"commands: unknown key {one_line(key)}. Examples of valid keys: f5, ctrl+x.")
        elif name in used:
            errors.append(f"commands: {display_key(name)} is already bound to {used[name] or 'another action'}.")
        else:
            names[key] = name
    return names, errors


def _bound_keys(keymap: Keymap, classes: Iterable[Kind]) -> Iterator[tuple[Kind, str, str]]:
    """Yield each key after its class and the ID of its binding, which may be empty."""
    for kind in classes:
        for binding in own_bindings(kind):
            id = binding.id or ""
            yield from ((kind, id, key) for key in keymap.get(id, binding.key).split(","))


def _conflicts(keymap: Keymap, classes: Iterable[Kind], ids: Mapping[str, Kind]) -> Iterator[tuple[str, str, str]]:
    """Yield an ID in ``keymap``, one of its keys, and the ID of another binding that uses this key in the same place."""
    used = list(_bound_keys(keymap, classes))
    for id, keys in keymap.items():
        kind = ids[id]
        for other, other_id, key in used:
            overlap = issubclass(kind, other | App) or issubclass(other, kind | App)
            if overlap and other_id not in ("", id) and key in keys.split(","):
                yield id, key, other_id


def _key_name(key: str) -> str | None:
    """Return Textual's name for a key, or ``None`` if there is no such key."""
    *modifiers, name = [key] if len(key) == 1 else key.split("+")
    if not name or not _MODIFIERS.issuperset(modifiers):
        return None
    if len(name) == 1 and not modifiers:
        return next(iter(Binding.make_bindings([Binding(name, "")]))).key
    return key if len(name) == 1 or name in _NAMES or _is_character_name(name) else None


def _is_character_name(name: str) -> bool:
    try:
        unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        return False
    return True


def display_key(key: str) -> str:
    """Return the label of a key: ``^p`` for ``ctrl+p``, ``[`` for ``left_square_bracket``, ``↑`` for ``up``."""
    *modifiers, name = key.split("+") if len(key) > 1 else [key]
    label = _LABELS.get(name) or (name.upper() if name[1:].isdecimal() else format_key(name))  # F1, as everywhere else
    return "".join("^" if modifier == "ctrl" else f"{modifier}+" for modifier in modifiers) + label


def shown_keys(changes: Keymap, kinds: Mapping[str, Kind]) -> dict[str, str]:
    """Return the labels of changed keys by action. ``kinds`` maps action namespaces to classes."""
    return {
        (binding.action if "." in binding.action else f"{namespace}.{binding.action}"): display_key(
            changes[binding.id].split(",")[0]
        )
        for namespace, kind in kinds.items()
        for parent in reversed(kind.__mro__)
        for binding in own_bindings(parent)
        if binding.id in changes
    }
