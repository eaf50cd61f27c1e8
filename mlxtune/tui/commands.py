"""The commands that do the same as the app's actions: those of what the user did, and those of what is possible now."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from textual.app import ComposeResult
from textual.content import Content

from mlxtune.core.text import one_line, safe_text
from mlxtune.tui.actions import Action, HasActions
from mlxtune.tui.render.text import cell, line
from mlxtune.tui.widgets import ListPanel, PageScreen, Section

_LABEL = 14  # cells


class CommandLog:
    """What the user did since the app was opened, as commands, oldest first."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self.commands: list[str] = []

    def add(self, *words: str | Path) -> None:
        """Add a command without ``mlxtune``. Paths in the workspace become relative to it."""
        self.commands.append(shlex.join(("mlxtune", *(self._word(word) for word in words))))

    def _word(self, word: str | Path) -> str:
        return str(word.relative_to(self._workspace) if isinstance(word, Path) and word.is_relative_to(self._workspace) else word)


def command_of(action: Action, fields: Mapping[str, str]) -> str:
    """Return the command of an action; fields that are not known are in capitals."""

    def fill(match: re.Match[str]) -> str:
        value = fields.get(match[1])
        return shlex.quote(value) if value else match[1].upper()

    return "mlxtune " + re.sub(r"{(\w+)}", fill, action.command) if action.command else ""


class CommandsPage(PageScreen):
    """Lists the commands of what was done, newest first, and of the actions that are possible in ``room``."""

    GROUP = "commands"
    ACTIONS = (Action("copy", "ctrl+y", "copy", when="commands"), Action("dismiss", "escape,q,@", "close", id="close"))

    def __init__(self, room: HasActions, fields: Mapping[str, str]) -> None:
        super().__init__("Commands")
        self._room, self._fields = room, fields

    def compose_body(self) -> ComposeResult:
        yield Section("Commands", ListPanel(id="commands"), lit=True, classes="fill")

    @property
    def commands(self) -> list[tuple[str, str, str]]:
        """A mark or a key, a label, and the command."""
        done = [("✓", "", command) for command in reversed(self.app.commands.commands)]
        return [*done, *self._possible()]

    def _possible(self) -> Iterator[tuple[str, str, str]]:
        for action in self._room.ACTIONS:
            if action.command and self._room.is_possible(action):
                shown = self._room.show_action(action)
                yield shown.key, shown.label, command_of(action, self._fields)

    def draw(self) -> None:
        rows = self.commands

        def row(index: int, width: int) -> Content:
            key, label, command = rows[index]
            is_done = index < len(self.app.commands.commands)
            mark = cell(key, 7, "bold $success" if is_done else "bold $primary")
            return line(mark, cell(label, _LABEL, "$muted"), safe_text(command)).truncate(max(width, 0), ellipsis=True)

        self.query_one(ListPanel).set(len(rows), row)
        self.draw_keys()

    def action_copy(self) -> None:
        command = self.commands[self.query_one(ListPanel).cursor][2]
        self.app.copy(command, one_line(command, 200))

    on_list_panel_chosen = action_copy
