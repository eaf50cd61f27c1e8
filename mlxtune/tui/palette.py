"""The command palette, which lists all available actions, with the room's own actions first."""

from textual.command import CommandPalette, DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.widgets import Input

from mlxtune.tui.render.text import cell, line

_TITLE_WIDTH = 24
_HELP_SCORE = 0.01  # of a match in the description, which is below every match in a title


class Palette(CommandPalette):
    """Textual's palette with a cursor that does not blink."""

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
            elif query.casefold() in help.casefold():
                yield Hit(_HELP_SCORE, _row(Content(title), help), callback, text=title)


def _row(title: Content, help: str) -> Content:
    return line(cell(title, _TITLE_WIDTH, "bold"), "  ", (help, "$muted"))
