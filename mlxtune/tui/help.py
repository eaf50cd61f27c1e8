"""The help page, with the keys of the focused panel and of the room and with the glyphs, and the command palette."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from textual.command import Command, CommandList, CommandPalette, DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.dom import DOMNode
from textual.events import Key
from textual.screen import Screen
from textual.widgets import Input
from textual.worker import WorkerCancelled

from mlxtune.core import settings
from mlxtune.core.text import one_line
from mlxtune.present.words import WORDS
from mlxtune.tui import keys
from mlxtune.tui.actions import HasActions
from mlxtune.tui.render.text import cell, line, paragraph, wrap
from mlxtune.tui.room import Room
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets import FocusPanel, PageScreen

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp


_WIDE = 90  # minimum width, in cells, to show binding IDs


class HelpPage(PageScreen):
    """The page that shows :func:`help_rows`."""


Entry = tuple[str, str, str | None]  # a key, what it does, and its binding ID


def help_rows(room: Room, top: Screen[Any]) -> Callable[[int], list[Content]]:
    """Return the rows of the help page for the current state of ``room``, with the binding IDs that a settings file uses.

    ``top`` is the room itself, or the dialog or page that is open over it, whose keys come first.
    """
    panel = top.focused if isinstance(top.focused, FocusPanel) else None
    own = _declared_entries(room)
    taken = {key for key, *_ in own} if top is room else set()  # keys that the room describes better
    everywhere = [*_declared_entries(room.app), ("tab", "go to the next panel; shift+tab goes back", None)]
    file = one_line(str(settings.path()))
    about_settings = f'Set colors and keys in {file}: theme = "{room.app.theme}", and under [keys], the IDs on the right.'

    def rows(width: int) -> list[Content]:
        marks = WORDS.glyphs.items()
        glyphs = [row for glyph, (color, about) in marks for row in _entry(glyph, f"bold ${color}", about, "", width)]
        sections = [
            (ROOMS[room.mode].name, _entries(own, width)),
            ("Everywhere", _entries(everywhere, width)),
            ("Glyphs", glyphs),
            ("Settings", [paragraph(about_settings, width)]),
        ]
        if panel is not None and (own_keys := [entry for entry in _bound_entries(panel, room.app) if entry[0] not in taken]):
            sections.insert(0, ("This panel", _entries(own_keys, width)))
        if top is not room and (bound := _bound_entries(top, room.app)):
            sections.insert(0, ("This page" if isinstance(top, PageScreen) else "This dialog", _entries(bound, width)))
        return [row for title, content in sections for row in (line((f"  {title}", "bold")), *content, Content(""))][:-1]

    return rows


def _declared_entries(node: HasActions) -> list[Entry]:
    """Return the keys of a screen or of the app. If actions share a key, the one that is possible now counts."""
    entries: dict[str, tuple[bool, Entry]] = {}
    for action in node.ACTIONS:
        shown, possible = node.show_action(action), node.is_possible(action)
        if shown.key and action.about and not (shown.key in entries and (entries[shown.key][0] or not possible)):
            about = action.about if possible or node is node.app else f"{action.about} (not possible now)"
            entries[shown.key] = possible, (shown.key, about, action.binding_id(node.GROUP) if action.bound else None)
    return [entry for _, entry in sorted(entries.values(), key=lambda item: not item[0])]


def _bound_entries(node: DOMNode, app: MlxtuneApp) -> list[Entry]:
    entries: dict[str, tuple[list[str], str]] = {}
    for kind in reversed(type(node).__mro__):
        for binding in keys.own_bindings(kind):
            if binding.id and binding.description:
                entries.setdefault(binding.id, ([], binding.description))[0].append(binding.key)
    changes = app.key_changes
    return [(keys.display_key(changes.get(id, names[0]).split(",")[0]), about, id) for id, (names, about) in entries.items()]


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


_TITLE_WIDTH = 24
_HELP_SCORE = 0.01  # of a match in the description, which is below every match in a title


class Palette(CommandPalette):
    """Textual's palette with a cursor that does not blink. After enter, keys wait for what the command opens."""

    app: MlxtuneApp

    def on_key(self, event: Key) -> None:
        if event.key == "enter":
            event.stop()
            self.app.hold_keys()
            self.call_later(self._run_command)

    async def _run_command(self) -> None:
        """Run the command under the cursor once what was typed has been searched for."""
        if searching := [worker for worker in self.workers if worker.node is self]:  # without any, Textual waits for all workers
            with suppress(WorkerCancelled):
                await self.app.workers.wait_for_complete(searching)
        option = self.query_one(CommandList).highlighted_option
        if isinstance(option, Command):
            self.dismiss()
            self.app.call_later(self.app.release_keys)  # the next key is forwarded after the command, which may hold it again
            self.app.call_later(option.hit.command)
        else:
            self.app.release_keys()

    def on_mount(self) -> None:
        self.query_one(Input).cursor_blink = False


class CommandProvider(Provider):
    """Provides the app's commands in order, one per row. Textual's own provider sorts them and parses markup in them."""

    async def discover(self) -> Hits:
        for title, help, callback, _ in self.app.get_system_commands(self.screen):
            yield DiscoveryHit(_row(Content(title), help), callback, text=title)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for title, help, callback, _ in self.app.get_system_commands(self.screen):
            score, offsets = matcher.fuzzy_search.match(query, title)
            if score > 0:
                highlighted = Content(title)
                for offset in offsets:
                    highlighted = highlighted.stylize(matcher.match_style, offset, offset + 1)
                yield Hit(score, _row(highlighted, help), callback, text=title)
            elif all(word in help.casefold() for word in query.casefold().split()):
                yield Hit(_HELP_SCORE, _row(Content(title), help), callback, text=title)


def _row(title: Content, help: str) -> Content:
    return line(cell(title, _TITLE_WIDTH, "bold"), "  ", (help, "$muted"))
