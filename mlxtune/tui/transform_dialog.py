"""The dialog for a pipeline of transforms, with a live preview of what it changes."""

import time
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, safe_text
from mlxtune.data.browser import LazyRow, Throttle
from mlxtune.data.rows import last_prompt
from mlxtune.data.transforms.pipeline import VERBS, Pipeline, RowEdit, parse
from mlxtune.data.transforms.preview import Outcome, changed_texts
from mlxtune.data.transforms.transform import Verb
from mlxtune.present.data_files import outcome_text
from mlxtune.tui.actions import Action
from mlxtune.tui.render.output_text import word_diff
from mlxtune.tui.render.text import cell, line, lines, marked
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.widgets import Dialog, Panel

_SHOWN_EDITS = 20
_OTHER_ROWS = 13  # other rows of the dialog (at most 90% of the screen's height) if the outcome takes two rows
_NOTIFY_INTERVAL = 0.2  # seconds between two redraws while rows are read
_MAX_TEXT = 2000  # characters of a changed text that are compared
_SYMBOLS = {ord("\n"): "␊", ord("\r"): "␍", ord("\t"): "␉"}


class _Superseded(Exception):
    """Raised in the thread of an outdated preview."""


class TransformDialog(Dialog["Pipeline | None"]):
    """Asks for a pipeline for ``rows`` (ascending) and previews it while it is typed. Returns it, or ``None`` on escape.

    The up and down keys recall ``history``, whose newest line is last.
    """

    GROUP = "transform"
    ACTIONS = (
        Action("submit", "enter", "apply", bound=False),
        Action("recall(-1)", "up", "earlier lines", "an earlier line", id="earlier"),
        Action("recall(1)", "down", help="a later line", id="later"),
        Action("dismiss(None)", "escape", "close", id="close"),
    )

    def __init__(self, session: SourceSession, rows: Sequence[int], title: str, history: Sequence[str] = ()) -> None:
        super().__init__(title)
        self._session, self._rows = session, rows
        self._history = [*dict.fromkeys(history), ""]
        self._recalled = len(self._history) - 1
        self._pipeline: Pipeline | None = None
        self._error: InputError | None = None
        self._outcome: Outcome | None = None
        self._read = 0  # rows read for the preview
        self._generation = 0  # incremented per line, so that the thread of an older one ends

    def compose_body(self) -> ComposeResult:
        yield Input(placeholder="replace /old/new/ in answer | cap category 200", compact=True, select_on_focus=False)
        yield Panel(id="outcome")
        yield Panel(id="changes")

    def on_unmount(self) -> None:
        self._generation += 1

    # The preview

    def on_input_changed(self, event: Input.Changed) -> None:
        self._generation += 1
        self._pipeline = self._error = self._outcome = None
        self._read = 0
        if event.value.strip():
            try:
                self._pipeline = parse(event.value, self.app.workspace)
            except InputError as error:
                self._error = error
        if self._pipeline is not None:
            pipeline, generation = self._pipeline, self._generation
            self.app.jobs.run(lambda: self._run(pipeline, generation), lambda _: self._draw(), group="transform", exclusive=False)
        self._draw()

    def _run(self, pipeline: Pipeline, generation: int) -> None:
        """Apply ``pipeline`` in a thread until another one replaces it."""
        outcome, throttle, notified = Outcome(len(self._rows), _SHOWN_EDITS), Throttle(), time.monotonic()

        def row_at(index: int) -> LazyRow:
            nonlocal notified
            if throttle.pause():
                if generation != self._generation:
                    raise _Superseded
                if (now := time.monotonic()) - notified > _NOTIFY_INTERVAL:
                    notified = now
                    self.app.call_later(self._draw)
            self._read += 1
            return self._session.source.lazy_row(index)

        error: InputError | None = None
        try:
            for edit in pipeline.edits(self._rows, row_at):
                outcome.add(edit)
        except _Superseded:
            return
        except InputError as caught:  # a file that the pipeline merges
            error = caught
        if generation == self._generation:
            self._error, self._outcome = error, None if error else outcome

    # Drawing

    def _draw(self) -> None:
        if not self.is_attached:
            return
        text, error, outcome = self.query_one(Input).value, self._error, self._outcome
        changes = self.query_one("#changes", Panel)

        def result(width: int, _height: int) -> Content:
            if error is not None:
                return lines(*marked("·", "$muted", one_line(error.message), width, "$muted"))
            if outcome is not None:
                token = "$success" if outcome.shown else "$muted"
                return lines(*marked("✓" if outcome.shown else "·", token, outcome_text(outcome), width))
            share = f" {min(self._read / max(len(self._rows), 1), 1):.0%}" if self._read else ""
            return line((f"  ● reading{share}" if text.strip() else "  Type a verb:", "$muted"))

        self.query_one("#outcome", Panel).update(result)
        height = max(self.app.size.height * 9 // 10 - _OTHER_ROWS, 3)
        if outcome is not None:
            rows = list(outcome.shown)
            changes.update(lambda width, _height: lines(*edit_rows(rows, width, height)))
        else:
            words = text.rpartition("|")[2].split()
            verbs = [verb for name, verb in VERBS.items() if not words or name.startswith(words[0])] or [*VERBS.values()]
            changes.update(lambda width, _height: lines(*(_verb_row(verb, width) for verb in verbs[:height])))
        changes.display = bool(outcome.shown) if outcome is not None else True

    on_mount = _draw

    # Actions

    def action_recall(self, by: int) -> None:
        self._recalled = max(0, min(self._recalled + by, len(self._history) - 1))
        field = self.query_one(Input)
        field.value = self._history[self._recalled]
        field.cursor_position = len(field.value)

    def action_submit(self) -> None:
        if self._error is not None:
            self.app.bell()
        elif self._pipeline is not None and (outcome := self._outcome) is not None and outcome.shown:
            if outcome.added:
                self._error = InputError(
                    "This pipeline adds rows, so it must write to a new file: mlxtune data apply … --out NEW.jsonl."
                )
                self._draw()
            else:
                self.dismiss(self._pipeline)

    on_input_submitted = action_submit


def _verb_row(verb: Verb, width: int) -> Content:
    usage = cell(verb.usage, min(40, max(width // 2 - 2, 4)), "bold")
    return line("  ", usage, "  ", (verb.about, "$muted")).truncate(max(width, 0), ellipsis=True)


def edit_rows(edits: Sequence[RowEdit], width: int, height: int) -> list[Content]:
    """Return the edits in at most ``height`` rows: the number, the changed part, and its text before and after."""
    rows: list[Content] = []
    for edit in edits:
        number = cell(f"{edit.index + 1:,}" if edit.index >= 0 else "new", 7, "$muted", right=True)
        if not edit.after and edit.before is not None:
            rows.append(line(number, ("  ✗ ", "bold $error"), cell(one_line(last_prompt(edit.before), 200), width - 12, "$muted")))
        for change in changed_texts(edit):
            before, after = word_diff(change.before[:_MAX_TEXT], change.after[:_MAX_TEXT])
            name = cell(change.part, min(12, max(width // 4, 4)), "$muted")
            for sign, words, color in (("− ", before, "$error"), ("+ ", after, "$success")):
                texts = ((safe_text(text.translate(_SYMBOLS)), f"underline {color}" if differs else "") for text, differs in words)
                row = line(number, "  ", name, (sign, f"bold {color}"), *texts)
                rows.append(row.truncate(max(width - 2, 0), ellipsis=True))
                number, name = cell("", 7), cell("", name.cell_length)
        if len(rows) > height:
            return [*rows[: height - 1], line(("    … and more", "$faint"))]
    return rows
