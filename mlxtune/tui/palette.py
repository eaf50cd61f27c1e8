"""The command palette: everything that can be done now, the room's own verbs first. Words of others are shown as they are."""

from __future__ import annotations

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from mlxtune.tui.draw import col, line

WORDS = 24  # cells for what a command is called; what it does stands beside it
WIDTH = 84  # cells of the palette, or nine tenths of the screen


class Everything(Provider):
    """The app's commands in their order, one a row; Textual's own provider would sort them, and read markup in them."""

    async def discover(self) -> Hits:
        for title, help, callback, _ in self.app.get_system_commands(self.screen):
            yield DiscoveryHit(self._row(Content(title), help), callback, text=title)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for title, help, callback, _ in self.app.get_system_commands(self.screen):
            score, offsets = matcher.fuzzy_search.match(query, title)
            if score > 0:
                shown = Content(title)
                for at in offsets:
                    shown = shown.stylize(matcher.match_style, at, at + 1)
                yield Hit(score, self._row(shown, help), callback, text=title)

    def _row(self, title: Content, help: str) -> Content:
        room = min(WIDTH, self.app.size.width * 9 // 10) - WORDS - 8
        return line(col(title, WORDS, "bold"), "  ", col(help, room, "$muted").rstrip())
