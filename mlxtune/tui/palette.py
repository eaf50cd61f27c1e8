"""The command palette: everything that can be done now, the room's own verbs first. Words of others are shown as they are."""

from __future__ import annotations

from textual.command import CommandPalette, DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.widgets import Input

from mlxtune.tui.draw import col, line

WORDS = 24  # cells for what a command is called; what it does stands beside it


class Palette(CommandPalette):
    """Textual's palette, without a cursor that blinks."""

    def on_mount(self) -> None:
        self.query_one(Input).cursor_blink = False


class Everything(Provider):
    """The app's commands in their order, one a row; Textual's own provider would sort them, and read markup in them."""

    async def discover(self) -> Hits:
        for title, help, callback, _ in self.app.get_system_commands(self.screen):
            yield DiscoveryHit(_row(Content(title), help), callback, text=title)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for title, help, callback, _ in self.app.get_system_commands(self.screen):
            score, offsets = matcher.fuzzy_search.match(query, title)
            if score > 0:
                shown = Content(title)
                for at in offsets:
                    shown = shown.stylize(matcher.match_style, at, at + 1)
                yield Hit(score, _row(shown, help), callback, text=title)


def _row(title: Content, help: str) -> Content:
    return line(col(title, WORDS, "bold"), "  ", (help, "$muted"))
