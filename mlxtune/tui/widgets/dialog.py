"""Dialogs: a choice between options, a prompt for a line of text, and an editor for a longer text."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, TextArea

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, restore_unsafe, safe_text
from mlxtune.tui.actions import Action, HasActions
from mlxtune.tui.paths import completions, relative_paths
from mlxtune.tui.render.text import cell, line, lines, marked, paragraph
from mlxtune.tui.widgets.list import ListPanel
from mlxtune.tui.widgets.panel import Draw, Panel


class Editor(TextArea):
    """A multi-line editor. Its text must be safe to show."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.leave", "cancel", id="edit.leave", priority=True),  # TextArea binds escape itself
        Binding("ctrl+home", "edge(False)", "start of text", id="edit.start", show=False),
        Binding("ctrl+end", "edge(True)", "end of text", id="edit.end", show=False),
    ]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(soft_wrap=True, compact=True, tab_behavior="indent", highlight_cursor_line=False, **kwargs)

    def action_edge(self, end: bool) -> None:
        self.move_cursor(self.document.end if end else self.document.start)


T = TypeVar("T")


class Dialog(HasActions, ModalScreen[T]):
    """A question over a room: a title, its content, and the keys of the actions that are possible."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._heading = title

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet"):
            yield Panel(lambda _width, _height: self.title_row())
            yield from self.compose_body()
            yield Panel(lambda _width, _height: self.key_row())

    def compose_body(self) -> ComposeResult:
        yield from ()

    def title_row(self) -> Content:
        return line("  ", (self._heading, "bold"))


_ESCAPED = {ord("\n"): "␊", ord("\t"): "␉"}  # symbols for a line break and a tab in a single-line field
_UNESCAPED = {ord(symbol): chr(code) for code, symbol in _ESCAPED.items()}


@dataclass(frozen=True)
class ChoiceOption:
    """An option: the value to return (``None`` to change nothing), its name, and a short description."""

    value: Any
    name: str
    about: str = ""


class ChoiceDialog(Dialog[Any]):
    """Asks the user to choose an option; the one under the ``cursor`` is the safe one. Returns its value, or ``None`` on escape.

    ``preview`` is called with the value under the cursor whenever it moves.
    """

    GROUP = "choice"
    ACTIONS = (Action("focused.choose", "enter", "choose", bound=False), Action("dismiss(None)", "escape", "close", id="close"))

    def __init__(
        self, title: str, text: str, options: Sequence[ChoiceOption], preview: Callable[[Any], object] = lambda value: None,
        cursor: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(title)
        self._text, self._options, self._preview, self._cursor = text, options, preview, cursor

    def compose_body(self) -> ComposeResult:
        if self._text:
            yield Panel(lambda width, _height: paragraph(self._text, width))
        yield ListPanel(eager=True, id="choices")
        yield Panel(id="choice-about")

    def on_mount(self) -> None:
        self.query_one("#choice-about").display = False
        self.query_one(ListPanel).set(len(self._options), self._row, cursor=self._cursor, on_move=self._move)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_about)

    def _move(self, index: int) -> None:
        self._preview(self._options[index].value)
        self._show_about()

    def _show_about(self) -> None:
        """Show the description under the cursor in full, if the list cuts any of them."""
        if not (self.is_attached and self._options):
            return
        choices, panel = self.query_one(ListPanel), self.query_one("#choice-about", Panel)
        width = choices.size.width - 2
        panel.display = any(cell_len(option.about) > self._about_width(width) for option in self._options)
        about = self._options[choices.cursor].about
        panel.update(lambda width, _height: paragraph(about, width))
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        """Let the list scroll if the dialog would be higher than the screen allows."""
        if self.is_attached:
            sheet, choices = self.query_one(".sheet"), self.query_one(ListPanel)
            heights = {part: part.outer_size.height for part in sheet.children if part.display}
            margins = sum(part.styles.margin.height for part in heights)
            others = sum(max(height, 1) for part, height in heights.items() if part is not choices)  # 0 before the first layout
            choices.styles.max_height = max(min(int(0.9 * self.size.height) - sheet.gutter.height - margins - others, 14), 2)

    def _name_width(self, width: int) -> int:
        return min(max(cell_len(option.name) for option in self._options), max(width - 12, 4))

    def _about_width(self, width: int) -> int:
        return width - self._name_width(width) - 3

    def _row(self, index: int, width: int) -> Content:
        option = self._options[index]
        about = cell(option.about, self._about_width(width), "$muted")
        return line(cell(option.name, self._name_width(width), "bold"), "   ", about).rstrip()

    def on_list_panel_chosen(self, event: ListPanel.Chosen) -> None:
        if self.is_current:
            self.dismiss(self._options[event.index].value)


class PromptDialog(Dialog[str]):
    """Asks the user for a line of text. Returns it, or an empty string on escape.

    ``text`` is prose, or a function that draws what the question is about. ``check`` raises ``MlxtuneError`` for an invalid answer.
    Line breaks and tabs of ``value`` are shown as symbols and restored in the result, as are characters that are unsafe to
    display. The text is a path that tab completes if there is a ``folder``, which relative paths are in. With
    ``select``, typing replaces ``value``.
    """

    GROUP = "ask"
    ACTIONS = (
        Action("submit", "enter", lambda dialog: dialog.label, bound=False),
        Action("complete", "tab", lambda dialog: "complete" if dialog.folder else "", "complete the path"),
        Action("candidate(-1)", "up", help="previous path", id="up"),
        Action("candidate(1)", "down", help="next path", id="down"),
        Action("dismiss('')", "escape", "close", id="close"),
    )

    def __init__(
        self, title: str, text: str | Draw, value: str = "", *, label: str = "save",
        check: Callable[[str], object] = lambda value: None, folder: Path | None = None, select: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(title)
        self._text, self._value, self.label, self._check = text, value, label, check
        self.folder, self._select = folder, select
        self._candidates: list[str] = []
        self._listed = ""  # the text that the candidates begin with
        self._completing = False  # tab was pressed before the candidates were found
        self._submitting = False  # and so was enter

    def compose_body(self) -> ComposeResult:
        if text := self._text:
            yield Panel((lambda width, _height: paragraph(text, width)) if isinstance(text, str) else text, classes="prose")
        yield Input(safe_text(self._value).translate(_ESCAPED), compact=True, select_on_focus=self._select)
        yield ListPanel(eager=True, id="candidates")
        yield Panel(id="wrong", classes="trouble")

    def on_mount(self) -> None:
        self.query_one("#wrong").display = False
        candidates = self.query_one(ListPanel)
        candidates.display, candidates.can_focus = self.folder is not None, False
        self._find_candidates(self._value)

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one("#wrong").display = False
        self._find_candidates(event.value)

    # Paths

    def _find_candidates(self, text: str) -> None:
        if (folder := self.folder) is not None:
            self.app.jobs.run(lambda: completions(folder, text), partial(self._show_candidates, text), group="paths")

    def _show_candidates(self, text: str, names: list[str]) -> None:
        if not self.is_attached or text != self.query_one(Input).value:
            return
        self._candidates, self._listed = names, text
        self.query_one(ListPanel).set(
            len(names), lambda index, width: cell(names[index], width, "$muted" if names[index].endswith("/") else ""), cursor=0
        )
        if self._completing:
            self._completing = False
            self.action_complete()
        if self._submitting and self._listed == self.query_one(Input).value:
            self._submitting = False
            self.action_submit()

    def action_candidate(self, by: int) -> None:
        self.query_one(ListPanel).action_move(by)

    def action_complete(self) -> None:
        """Complete the text with the beginning that all paths share or, if it has that or a path was chosen, with the path under the cursor."""
        field, names, cursor = self.query_one(Input), self._candidates, self.query_one(ListPanel).cursor
        if self._listed != field.value:
            self._completing = True
        elif names:
            shared = os.path.commonprefix(names)  # noqa: RUF071, which means whole names
            self._type(shared if cursor == 0 and len(shared) > len(field.value) else names[cursor])

    def on_list_panel_chosen(self, event: ListPanel.Chosen) -> None:
        self._type(self._candidates[event.index])

    def _find_error(self, value: str) -> str:
        try:
            self._check(value)
        except MlxtuneError as error:
            return relative_paths(self.app.workspace, one_line(f"{error.message} {error.hint}"))
        except OSError as error:
            return one_line(str(error))
        return ""

    def _type(self, path: str) -> None:
        field = self.query_one(Input)
        field.value, field.cursor_position = path, len(path)

    def action_submit(self) -> None:
        """Return the text or, if it is not a path yet, the path under the cursor. A folder under the cursor is entered."""
        text = self.query_one(Input).value
        if self.folder is not None and self._completing:
            self._submitting = True  # the path is not complete yet
            return
        value = restore_unsafe(self._value, text.translate(_UNESCAPED)).strip()
        error = self._find_error(value) if value else ""
        if (error or not value) and self._candidates and self._listed == text:
            path = self._candidates[self.query_one(ListPanel).cursor]
            self._type(path)
            if path.endswith("/"):
                return
            value, error = path, self._find_error(path)
        if not error:
            self.dismiss(value)
            return
        panel = self.query_one("#wrong", Panel)
        panel.display = True
        panel.update(lambda width, _height: lines(*marked("✗", "$error", error, width + 2)))

    on_input_submitted = action_submit


class EditDialog(Dialog[str | None]):
    """Asks the user to edit ``value``, a text of any number of lines. Returns it, or ``None`` on escape.

    Characters that are unsafe to display are shown as symbols and restored in the result.
    """

    GROUP = "text"
    ACTIONS = (Action("save", "ctrl+s", "save"), Action("leave", "escape", "close", bound=False))

    def __init__(self, title: str, about: str, value: str) -> None:
        super().__init__(title)
        self._about, self._value = about, value

    def compose_body(self) -> ComposeResult:
        yield Panel(lambda width, _height: paragraph(self._about, width), classes="prose")
        yield Editor(text=safe_text(self._value))

    def on_mount(self) -> None:
        self.query_one(Editor).action_edge(True)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_save(self) -> None:
        self.dismiss(restore_unsafe(self._value, self.query_one(Editor).text).strip())
