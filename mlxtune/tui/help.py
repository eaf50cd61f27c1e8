"""The help page: the focused panel, the available keys, and the glyphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from textual.content import Content
from textual.dom import DOMNode
from textual.screen import Screen

from mlxtune.core import settings
from mlxtune.core.text import one_line
from mlxtune.tui import keys
from mlxtune.tui.base import Room
from mlxtune.tui.render.text import cell, line, wrap
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets.page import PageScreen
from mlxtune.tui.widgets.panel import FocusPanel

_EVERYWHERE = {
    "app.more": "search all available actions",
    "app.jump": "show a jump label on every panel",
    "app.dismiss": "close a page or dialog, or dismiss the notice",
    "app.quit": "quit; runs continue",
    "app.quit-now": "quit, even from a text field or a dialog",
}
_GLYPHS = (
    ("●", "$primary", "running"),
    ("✓", "$success", "done"),
    ("■", "$muted", "stopped"),
    ("✗", "$error", "failed or crashed; on a chart, a loss that is not a number"),
    ("!", "$warning", "needs attention: quiet, cut off, or close to a limit"),
    ("◐", "$primary", "incomplete"),
    ("○", "$muted", "waiting"),
    ("◆", "$second", "validation"),
    ("▾", "$primary", "checkpoint saved"),
)
_WIDE = 90  # minimum width, in cells, to show binding IDs


class HelpPage(PageScreen):
    """The page that shows :func:`help_rows`."""


Entry = tuple[str, str, str | None]  # a key, what it does, and its binding ID


def help_rows(room: Room, top: Screen[Any]) -> Callable[[int], list[Content]]:
    """Return the rows of the help page for the current state of ``room``, with the binding IDs that a settings file uses.

    ``top`` is the room itself, or the dialog or page that is open over it, whose keys come first.
    """
    kinds: list[tuple[str, keys.Kind]] = [("app", type(room.app)), *(("screen", kind) for kind in reversed(type(room).__mro__))]
    ids = {f"{namespace}.{binding.action}": binding.id for namespace, kind in kinds for binding in keys.own_bindings(kind)}
    panel = top.focused if isinstance(top.focused, FocusPanel) else None
    actions = room.with_user_keys(room.footer_actions())
    own = [(action.key, action.help or action.label, ids.get(action.click)) for action in actions]
    own += _impossible_now(room, own)
    taken = {key for key, *_ in own} if top is room else set()  # keys that the room describes better
    everywhere: list[Entry] = [
        (room.app.shown_key(f"app.room('{mode}')", entry.key), f"open {entry.name}", f"app.{mode}") for mode, entry in ROOMS.items()
    ]
    bindings = {binding.id: binding for binding in reversed(keys.own_bindings(type(room.app)))}
    for id, about in _EVERYWHERE.items():
        default = keys.display_key(bindings[id].key)
        everywhere.append((room.app.shown_key(f"app.{bindings[id].action}", default), about, id))
    everywhere.append(("tab", "go to the next panel; shift+tab goes back", None))
    file = one_line(str(settings.path()))
    about_settings = f'Set colors and keys in {file}: theme = "paper", and under [keys], the IDs on the right.'

    def rows(width: int) -> list[Content]:
        sections = [
            (ROOMS[room.mode].name, _entries(own, width)),
            ("Everywhere", _entries(everywhere, width)),
            ("Glyphs", [row for glyph, token, about in _GLYPHS for row in _entry(glyph, f"bold {token}", about, "", width)]),
            ("Settings", _prose(about_settings, width)),
        ]
        if panel is not None:
            content = [
                *(_prose(panel.about, width) if panel.about else []),
                *_entries([entry for entry in _bound_entries(panel, room.app.key_changes) if entry[0] not in taken], width),
            ]
            sections.insert(0, ("This panel", content))
        if top is not room and (bound := _bound_entries(top, room.app.key_changes)):
            sections.insert(0, ("This page" if isinstance(top, PageScreen) else "This dialog", _entries(bound, width)))
        return [row for title, content in sections for row in (line((f"  {title}", "bold")), *content, Content(""))][:-1]

    return rows


def _impossible_now(room: Room, possible: Sequence[Entry]) -> list[Entry]:
    """Return the room's keys whose actions are impossible now."""
    keys_taken, entries = {key for key, *_ in possible}, []
    for name, about, id in _bound_entries(room, room.app.key_changes):
        action = next(binding.action for kind in type(room).__mro__ for binding in keys.own_bindings(kind) if binding.id == id)
        if action in room.CONDITIONAL_ACTIONS and name not in keys_taken:
            entries.append((name, f"{about} (not possible now)", id))
    return entries


def _bound_entries(node: DOMNode, changes: keys.Keymap) -> list[Entry]:
    """Return the keys of a panel or a dialog, one entry per binding."""
    entries: dict[str, tuple[list[str], str]] = {}
    for kind in reversed(type(node).__mro__):
        for binding in keys.own_bindings(kind):
            if binding.id and binding.description:
                entries.setdefault(binding.id, ([], binding.description))[0].append(binding.key)
    return [(keys.display_key(changes.get(id, names[0]).split(",")[0]), about, id) for id, (names, about) in entries.items()]


def _prose(text: str, width: int) -> list[Content]:
    return [line((f"  {row}", "$muted")) for row in wrap(text, width - 2)]


def _entries(entries: Iterable[Entry], width: int) -> list[Content]:
    return [row for name, about, id in entries for row in _entry(name, "bold $primary", about, id or "", width)]


def _entry(name: str, style: str, about: str, id: str, width: int) -> list[Content]:
    id_width = 22 if width >= _WIDE else 0
    first, *rest = wrap(about, width - 11 - id_width)
    lead = line("  ", cell(name, 8, style))
    if id_width and id:
        lead = line(lead, cell(first, width - 11 - id_width, "$muted"), (id, "$faint"))
    else:
        lead = line(lead, (first, "$muted"))
    return [lead, *(line((" " * 10 + row, "$muted")) for row in rest)]
