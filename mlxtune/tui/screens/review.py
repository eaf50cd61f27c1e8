"""Review: one row, one decision. The rows are those that the Data room's filter shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from textual.binding import Binding, BindingType

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, safe_text
from mlxtune.data.review import Action
from mlxtune.tui import curate
from mlxtune.tui.part_view import is_pair, parts_of
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.review_view import ReviewView
from mlxtune.tui.widgets.editor import Editor
from mlxtune.tui.widgets.frame import Answer, Verb, sorry
from mlxtune.tui.widgets.talk import Talk
from mlxtune.tui.work import Work
from mlxtune.tui.workbench import told


class Review(ReviewView):
    """Keyboard alone: every decision is one key, is answered with one line, and goes on to the next row that has none."""

    ROOM = "Review"
    ABOUT = "one row, one decision"
    CSS_PATH = "review.tcss"
    AUTO_FOCUS = "#talk"
    VERBS = frozenset(
        {"accept", "reject", "skip", "other", "disclaimer", "tie", "bad", "flip", "edit", "keep", "leave", "tag", "note", "redo", "aside", "recipe",
         "bring"}
    )  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "accept", "accept", id="review.accept"),
        Binding("x", "reject", "reject", id="review.reject"),
        Binding("space", "skip", "later", id="review.later"),
        Binding("d", "other", "the other side is better", id="review.other"),
        Binding("d", "disclaimer", "add the disclaimer that lacks", id="review.disclaimer"),
        Binding("equals_sign", "tie", "tie", id="review.tie"),
        Binding("b", "bad", "both are bad", id="review.bad"),
        Binding("s", "flip", "swap the sides", id="review.swap"),
        Binding("e", "edit", "edit", id="review.edit"),
        Binding("ctrl+s", "keep", "keep what is written", id="review.keep"),
        Binding("t", "tag", "tag", id="review.tag"),
        *(Binding(str(digit), f"digit({digit})", f"tag {digit}", id=f"review.tag-{digit}") for digit in range(1, 10)),
        Binding("n", "note", "note", id="review.note"),
        Binding("u", "undo", "undo", id="review.undo"),
        Binding("U,ctrl+r", "redo", "redo", id="review.redo"),
        Binding("right,l", "next", "the next row", id="review.next"),
        Binding("left,h", "previous", "the row before", id="review.previous"),
        Binding("home", "first", "the first row", id="review.first"),
        Binding("end", "last", "the last row", id="review.last"),
        Binding("c", "aside", "contract", id="review.contract"),
        Binding("i", "bring", "import", id="review.import"),
        Binding("r", "recipe", "recipe", id="review.recipe"),
        Binding("escape", "back", "back", id="review.back"),
    ]

    def verbs(self) -> Sequence[Verb]:
        if self._editing is not None:
            return [
                Verb("^s", "keep", "keep", "let it hold as it is written"),
                Verb("esc", "leave", "leave", "leave the row as it was; what was written waits"),
            ]
        quit_ = Verb("q", "quit", "app.quit", "leave; what runs goes on")
        recipe = (
            [Verb("r", "recipe", "recipe", "be about another recipe")] if self.desk.snapshot and self.desk.snapshot.recipes else []
        )
        bring = Verb("i", "import", "bring", "rows of any format, as a file of this workspace")
        work = self.work
        if work is None:
            return [bring, *recipe, quit_]
        row, state = self.row, work.source.state
        verbs: list[Verb] = []
        if is_pair(row):
            verbs += [
                Verb("a", "left", "accept", "the answer on the left is better"),
                Verb("d", "right", "other", "the answer on the right is better"),
                Verb("=", "tie", "tie", "both are as good: the pair never trains"),
                Verb("b", "both bad", "bad", "both are bad: the pair never trains"),
                Verb("space", "later", "skip", "leave it for later"),
            ]
        elif row is not None:
            verbs += [
                Verb("a", "accept", "accept", "this row is right"),
                Verb("x", "reject", "reject", "it never trains"),
                Verb("space", "later", "skip", "leave it for later"),
                Verb("e", "edit", "edit", "write the part under the cursor anew"),
            ]
            if self.amended:
                verbs.insert(0, Verb("d", "disclaimer", "disclaimer", "add the disclaimer that the answer lacks"))
        if row is not None:
            verbs.append(Verb("t", "tag", "tag", "with a word of your own; digits are the tags beside the row"))
        if state.done:
            verbs.insert(5, Verb("u", "undo", "undo", "take the newest decision back"))
        if is_pair(row):
            verbs += [
                Verb("s", "swap", "flip", "let the answers change sides on the screen"),
                Verb("x", "reject", "reject", "it never trains"),
                Verb("e", "edit", "edit", "write the part under the cursor anew"),
            ]
        if not self.wide:
            verbs.insert(
                5, Verb("c", "row" if self._aside else "contract", "aside", "contract, findings, tags and source, or the row")
            )
        if row is not None:
            verbs.append(Verb("n", "note", "note", "a note on this row"))
        if state.undone:
            verbs.append(Verb("U", "redo", "redo", "let the decision that was taken back hold again"))
        if len(work.shown.rows) > 1:
            verbs += [Verb("→", "next", "next", "the next row, undecided or not"), Verb("←", "back", "previous", "the row before")]
        return [*verbs, bring, *recipe, quit_]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a part is being written, nothing else is done; a pair's keys are for pairs."""
        if self._editing is not None and action in {"keep", "leave", "back"}:
            return True
        if action in {"first", "last", "next", "previous", "digit"}:
            return self._editing is None and self.work is not None
        return super().check_action(action, parameters)

    def action_accept(self) -> None:
        self._decide("swap" if is_pair(self.row) and self._flipped else "accept")

    def action_other(self) -> None:
        self._decide("accept" if self._flipped else "swap")

    def action_disclaimer(self) -> None:
        """An edit, shown and not yet accepted: the row stays on show."""
        work, amended = self.work, self.amended
        if work is not None and amended is not None and self._decide("edit", stay=True, record=amended.content):
            self._ask_for_mask(work)
            self.show()

    def action_reject(self) -> None:
        self._decide("reject")

    def action_skip(self) -> None:
        self._decide("skip")

    def action_tie(self) -> None:
        self._decide("tie")

    def action_bad(self) -> None:
        self._decide("bad")

    def action_flip(self) -> None:
        self._flipped = not self._flipped
        self.show()

    def _decide(self, action: Action, *, stay: bool = False, **more: Any) -> bool:
        """Decide on the row, say so, and go on to the next that has no decision; whether it could be done."""
        if (work := self.work) is None or self.desk.busy:
            return False
        at = work.at
        try:
            step = work.decide(action, [at], **more)
        except MlxtuneError as error:
            self.desk.reply(sorry(error))
            return False
        self._decided_at = [*self._decided_at[-20:], time.monotonic()]
        if not stay:
            self._next_open(work)
        self.desk.reply(told(step, [at]))
        return True

    def _next_open(self, work: Work) -> None:
        """Go to the next row that waits for a decision; with none left, to one that was put off; with none at all, stay."""
        rows, decision = work.shown.rows, work.source.decision
        order = [*range(self._index + 1, len(rows)), *range(self._index)]
        for status in ("pending", "skipped"):
            for index in order:
                at = int(rows[index])
                if decision(at).status == status and work.source.may_decide(at):
                    work.at, self._index = at, index
                    return

    def action_next(self) -> None:
        self._go(self._index + 1)

    def action_previous(self) -> None:
        self._go(self._index - 1)

    def action_first(self) -> None:
        self._go(0)

    def action_last(self) -> None:
        self._go(10**12)

    def _go(self, index: int) -> None:
        work = self.work
        if work is None or not len(work.shown.rows):
            return
        self._index = max(0, min(index, len(work.shown.rows) - 1))
        work.at = int(work.shown.rows[self._index])
        self.show()
        self.refresh_bindings()

    def action_aside(self) -> None:
        self._aside = not self._aside and not self.wide
        self.show()
        self.call_after_refresh(self.query_one("#contract" if self._aside else "#talk").focus)

    def action_back(self) -> None:
        if self._editing is not None:
            self.action_leave()
        elif self._aside:
            self.action_aside()
        elif self.desk.answer is not None:
            self.desk.action_settle()
        else:
            self.desk.action_room("data")

    def action_tag(self) -> None:
        work = self.work
        if work is None:
            return
        known = ", ".join(one_line(tag, 20) for tag in self._known_tags(work))
        text = f"Known: {known}. A tag that the row has is taken off." if known else "A tag that the row has is taken off."
        self.app.push_screen(Ask(f"Tag row {work.at + 1:,}", text, word="tag"), self._toggle)

    def action_digit(self, digit: int) -> None:
        work = self.work
        if work is not None and digit <= len(known := self._known_tags(work)):
            self._toggle(known[digit - 1])

    def _toggle(self, tag: str | None) -> None:
        if tag and (work := self.work) is not None and self.row is not None:
            self._decide("tag", stay=True, **curate.toggled(work.source, work.at, tag))

    def action_note(self) -> None:
        work = self.work
        if work is None:
            return
        held = work.source.decision(work.at).note
        text = "It is kept with the decisions, and is no part of what trains."
        self.app.push_screen(Ask(f"Note on row {work.at + 1:,}", text, one_line(held), word="note"), self._noted)

    def _noted(self, note: str | None) -> None:
        if note:
            self._decide("note", stay=True, note=note)

    def action_edit(self) -> None:
        work, row = self.work, self.row
        if work is None or row is None:
            return
        self._aside = False
        parts = parts_of(row)
        self._from = max(0, min(self.query_one(Talk).cursor, len(parts) - 1))
        self._editing = parts[self._from]
        self._draft = (work.source.seen(work.at).row.hash, self._editing.name)
        editor = self.query_one(Editor)
        editor.load_text(self._drafts.get(self._draft, safe_text(self._editing.text)))
        editor.move_cursor(editor.document.end)
        self.show()
        self.refresh_bindings()
        self.call_after_refresh(editor.focus)  # it is hidden until then

    def on_text_area_changed(self) -> None:
        if self._editing is not None:
            self.show()

    def on_editor_left(self) -> None:
        self.action_leave()

    def action_keep(self) -> None:
        work, row = self.work, self.row
        if work is None or row is None or self._editing is None:
            return
        candidate = self._candidate(row)
        assert candidate is not None
        if self._decide("edit", stay=True, record=candidate.content):
            self._drafts.pop(self._draft, None)
            self._leave()
            self._ask_for_mask(work)
            self.show()

    def action_leave(self) -> None:
        if self._keep_draft():
            self.desk.reply(Answer("·", "$muted", "The row is as it was. What you wrote waits:", undo=Verb("e", "go on", "edit")))
        self._leave()
        self.show()
        self.refresh_bindings()
