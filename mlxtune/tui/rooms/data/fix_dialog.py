"""The dialog that shows the rows with a finding as a diff, and fixes them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from textual.app import ComposeResult
from textual.content import Content

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line, plural
from mlxtune.data.checks.base import DROP
from mlxtune.data.checks.check_input import scored_answer
from mlxtune.data.checks.fixes import fixed_row
from mlxtune.data.checks.registry import get_check
from mlxtune.data.rows import Row, RowError, last_prompt
from mlxtune.data.transforms.pipeline import RowEdit
from mlxtune.present.check import check_title, finding_text
from mlxtune.tui.actions import Action
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.text import cell, line, lines, marked
from mlxtune.tui.session_manager import decision_notice
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.transform_dialog import edit_rows
from mlxtune.tui.widgets import Dialog, ListPanel, Panel

_OTHER_ROWS = 11  # of the dialog, besides the preview
_PREVIEW = 400  # characters


class FixChoice(NamedTuple):
    """What to do with ``rows``."""

    do: Literal["fix", "reject", "edit"]
    rows: tuple[int, ...]


class FixDialog(Dialog[FixChoice | None]):
    """Shows what a fix of ``check`` changes in ``rows``. Accepted rows are left alone until they are added."""

    GROUP = "fix"
    ACTIONS = (
        Action("choose('fix')", "enter", lambda dialog: f"{dialog.check.fix.label}: {dialog.count}",
               when=lambda dialog: dialog.check.fix.kind == "put", bound=False),
        Action("choose('reject')", "enter", lambda dialog: f"reject {dialog.count}",
               when=lambda dialog: dialog.check.fix.kind == "drop", bound=False),
        Action("choose('reject')", "x", lambda dialog: f"reject {dialog.count}", "reject the rows",
               when=lambda dialog: dialog.check.fix.kind != "drop", id="reject"),
        Action("choose('edit')", "enter", "edit", when=lambda dialog: dialog.check.fix.kind == "hand", bound=False),
        Action("choose('edit')", "e", "edit", when=lambda dialog: dialog.check.fix.kind != "hand",
               id="edit"),
        Action("accepted", "a", lambda dialog: "without the accepted" if dialog.with_accepted else "also the accepted",
               "accepted rows, too", when="accepted"),
        Action("dismiss(None)", "escape", "close", id="close"),
    )  # fmt: skip

    def __init__(self, session: SourceSession, check: str, rows: Sequence[int]) -> None:
        super().__init__("")
        self._session, self.check, self._rows = session, get_check(check), list(rows)
        self.accepted = {index for index in self._rows if session.source.decision(index).status == "accepted"}
        self.with_accepted = not self._chosen(False)

    def _chosen(self, with_accepted: bool) -> list[int]:
        return [index for index in self._rows if with_accepted or index not in self.accepted]

    @property
    def rows(self) -> list[int]:
        return self._chosen(self.with_accepted)

    @property
    def count(self) -> str:
        return plural(len(self.rows), "row")

    def compose_body(self) -> ComposeResult:
        yield ListPanel(id="fix-rows")
        yield Panel(id="fix-preview")

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def title_row(self) -> Content:
        label = self.check.fix.label
        kept = f" ({label})" if self.check.fix.kind == "drop" and label != DROP.label else ""
        held_out = sum(map(self._session.source.is_held_out, self.rows))
        marks = [f"◇ {held_out:,} held out"] if held_out else []
        marks += [f"✓ {len(self.accepted):,} accepted {'too' if self.with_accepted else 'kept'}"] if self.accepted else []
        title = f"{self.count}: {check_title(self.check.id)}{kept}"
        return line("  ", (title, "bold"), ("   " + "   ".join(marks), "$warning"))

    def _draw(self) -> None:
        if not self.is_attached:
            return
        rows, panel = self.rows, self.query_one("#fix-rows", ListPanel)
        panel.styles.max_height = max(min(len(rows), (self.app.size.height - _OTHER_ROWS) // 2), 2)
        panel.set(len(rows), lambda position, width: self._row(rows[position], width), on_move=lambda _: self._draw_preview())
        self._draw_preview()
        for other in self.query(Panel):
            other.refresh(layout=True)

    on_mount = _draw

    def _row(self, index: int, width: int) -> Content:
        row = self._session.source.lazy_row(index).current_or_error
        text = row.text if isinstance(row, RowError) else "" if isinstance(row, DataError) else last_prompt(row)
        return line(cell(f"{index + 1:,}", 6, "$muted", right=True), "  ", cell(one_line(text[:_PREVIEW], _PREVIEW), width - 8))

    def _draw_preview(self) -> None:
        height = max((self.app.size.height - _OTHER_ROWS) // 2, 3)
        self.query_one("#fix-preview", Panel).update(lambda width, _height: lines(*self._preview(width, height)))

    def _preview(self, width: int, height: int) -> list[Content]:
        """Return what the fix changes in the row under the cursor, or the reason of the finding and the answers of its rows."""
        if (index := self.query_one("#fix-rows", ListPanel).pick(self.rows)) is None:
            return []
        source = self._session.source
        row = source.lazy_row(index).current_or_error
        found = [one for one in source.findings(index) if one.check == self.check.id]
        if self.check.fix.kind == "put" and (fixed := fixed_row(source, index, found)) is not None:
            before = source.records.row(index, row.raw.decode(errors="replace")) if isinstance(row, RowError) else row
            if not isinstance(before, DataError) and fixed.hash != before.hash:
                return edit_rows([RowEdit(index, before, (fixed,))], width, height)
            return [line(("  · ", "$muted"), "by hand: ", ("e", "bold $primary"))]
        shown = [row for one in found for row in marked("✗", "$error", one_line(finding_text(one), _PREVIEW), width)]
        others = dict.fromkeys(other for one in found for other in one.rows[1:])
        for other in (index, *others) if others else ():
            shown += [self._row(other, width), line(" " * 8, cell(self._answer(other), width - 8))]
        return shown[:height]

    def _answer(self, index: int) -> str:
        row = self._session.source.lazy_row(index).current_or_none
        return one_line(scored_answer(row)[1][:_PREVIEW], _PREVIEW) if row else ""

    def action_accepted(self) -> None:
        self.with_accepted = not self.with_accepted or not self._chosen(False)
        self._draw()

    def action_choose(self, do: Literal["fix", "reject", "edit"]) -> None:
        cursor = self.query_one("#fix-rows", ListPanel).cursor
        self.dismiss(FixChoice(do, tuple(self.rows[cursor : cursor + 1] if do == "edit" else self.rows)))

    def on_list_panel_chosen(self, event: ListPanel.Chosen) -> None:
        event.stop()
        self.action_choose({"put": "fix", "drop": "reject", "hand": "edit"}[self.check.fix.kind])  # type: ignore[arg-type]


def apply_fix(session: SourceSession, check: str, rows: Sequence[int]) -> Notice:
    browser = session.source
    edits: dict[str, Row] = {}
    fixed_rows = []
    for index in rows:
        row = browser.lazy_row(index).current_or_error
        fixed = fixed_row(browser, index, [finding for finding in browser.findings(index) if finding.check == check])
        if fixed is not None and (isinstance(row, DataError) or fixed.hash != row.hash):
            fixed_rows.append(index)
            edits[browser.keyed_row(index)[0]] = fixed
    step = session.decide("edit", fixed_rows, edits=edits, fixes=check)
    left = len(rows) - len(fixed_rows)
    hint = f"{plural(left, 'row')} must be edited by hand: press e in Review." if left else ""
    return replace(decision_notice(step, fixed_rows), hint=hint)
