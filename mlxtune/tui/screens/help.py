"""F1: what has the focus, the keys that do something now, and what the signs mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mlxtune.core import settings
from mlxtune.core.text import one_line
from mlxtune.tui import keys
from mlxtune.tui.draw import Part, col, wrap
from mlxtune.tui.widgets.frame import LETTERS
from mlxtune.tui.widgets.pane import Pane

if TYPE_CHECKING:
    from mlxtune.tui.screens.room import Room

_ALWAYS = {
    "app.more": "everything that can be done now, to search",
    "app.jump": "a letter over each part of the room, to go there",
    "app.dismiss": "put away what lies over a room, or what was said above the footer",
    "app.quit": "leave; what runs goes on",
    "app.quit-now": "the same, also from a text field or a question",
}
_SIGNS = (
    ("●", "$primary", "running"),
    ("✓", "$success", "done"),
    ("■", "$muted", "stopped"),
    ("✗", "$error", "failed or crashed; on a chart, a loss that is not a number"),
    ("!", "$warning", "worth a look: quiet, cut, or close to a limit"),
    ("◐", "$primary", "partly known"),
    ("○", "$muted", "waiting"),
    ("◆", "$second", "validation"),
    ("▾", "$primary", "checkpoint saved"),
)

Rows = list[tuple[Part, ...]]
Entry = tuple[str, str, str | None]  # a key, what it does, the id of its binding


def help_rows(room: Room) -> Callable[[int], Rows]:
    """The rows of the help page for ``room`` as it is now. A binding's id stands where there is room: a settings file names it."""
    ids = {f"{space}.{one.action}": one.id for space, kind in _kinds(room) for one in keys.own(kind)}
    here = room.focused if isinstance(room.focused, Pane) else None
    verbs = [(verb.key, verb.help or verb.word, ids.get(verb.click)) for verb in room.named(room.verbs()) if verb.key != "q"]
    named = {binding.id: binding for binding in reversed(keys.own(type(room.app)))}
    always: list[Entry] = [
        (room.desk.key(f"app.room('{name.lower()}')", LETTERS[name]), f"go to {name}", f"app.{name.lower()}")
        for name in room.desk.rooms
    ]
    for id, does in _ALWAYS.items():
        usual = keys.shown(named[id].key)
        always.append((room.desk.key(f"app.{named[id].action}", usual), does, id))
    always.append(("tab", "the next part of the room; shift+tab the one before", None))

    def rows(width: int) -> Rows:
        out: Rows = []
        if here is not None:
            out += [(("  Where you are", "bold"),)]
            out += [(("  " + row, "$muted"),) for row in wrap(here.about, width - 2) if here.about]
            out += _table(_of(here, room.desk.changed), width)
            out += [("",)]
        out += [((f"  {room.ROOM}", "bold"),), *_table(verbs, width), ("",), (("  Everywhere", "bold"),), *_table(always, width)]
        out += [("",), (("  Signs", "bold"),)]
        for mark, token, means in _SIGNS:
            out += _entry(mark, f"bold {token}", means, "", width)
        where = f'Colours and keys can be set in {one_line(str(settings.path()))}: theme = "paper", and under [keys] the names on the right.'
        out += [("",), (("  Settings", "bold"),), *((("  " + row, "$muted"),) for row in wrap(where, width - 2))]
        return out

    return rows


def _kinds(room: Room) -> list[tuple[str, keys.Kind]]:
    return [("app", type(room.app)), *(("screen", kind) for kind in reversed(type(room).__mro__))]


def _of(pane: Pane, changed: keys.Keymap) -> list[Entry]:
    """The keys of a pane, those of one binding together."""
    found: dict[str, tuple[list[str], str]] = {}
    for kind in reversed(type(pane).__mro__):
        for binding in keys.own(kind):
            if binding.id and binding.description:
                found.setdefault(binding.id, ([], binding.description))[0].append(binding.key)
    return [(keys.shown(changed.get(id, ",".join(its)).split(",")[0]), does, id) for id, (its, does) in found.items()]


def _table(entries: Iterable[Entry], width: int) -> Rows:
    return [row for name, does, id in entries for row in _entry(name, "bold $primary", does, id or "", width)]


def _entry(name: str, style: str, text: str, id: str, width: int) -> Rows:
    aside = 22 if width >= 90 else 0
    first, *rest = wrap(text, width - 11 - aside)
    lead: tuple[Part, ...] = ("  ", col(name, 8, style), (first, "$muted"))
    if aside and id:
        lead = ("  ", col(name, 8, style), col(first, width - 11 - aside, "$muted"), (id, "$faint"))
    return [lead, *((" " * 10, (more, "$muted")) for more in rest)]
