"""Review: one row, one decision. The rows are those that the Data room's filter shows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.core.text import one_line, restored, safe_text
from mlxtune.data.decisions import Decision, tags
from mlxtune.data.review import Action
from mlxtune.data.rows import Row, RowError
from mlxtune.planning.masks import Mask
from mlxtune.tui import curate
from mlxtune.tui.draw import fold, key, line, lines
from mlxtune.tui.part_view import SIDES, PartView, is_pair, parts_of, wanted
from mlxtune.tui.review_view import Verdict, origin, verdicts
from mlxtune.tui.row_view import mark_of
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import Snapshot
from mlxtune.tui.widgets import review_pictures as pictures
from mlxtune.tui.widgets import talk
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.editor import Editor
from mlxtune.tui.widgets.frame import Answer, Verb, sorry
from mlxtune.tui.widgets.pane import Pane
from mlxtune.tui.widgets.section import Section
from mlxtune.tui.widgets.source_states import broken, invite
from mlxtune.tui.widgets.talk import Rows, Talk
from mlxtune.tui.work import Work
from mlxtune.tui.workbench import News, Workbench, told, workbench

_IDLE = 60.0  # seconds between two decisions beyond which somebody did something else


class Review(Room):
    """Keyboard alone: every decision is one key, is answered with one line, and goes on to the next row that has none."""

    ROOM = "Review"
    ABOUT = "one row, one decision"
    CSS_PATH = "review.tcss"
    AUTO_FOCUS = "#talk"
    VERBS = frozenset(
        {"accept", "reject", "skip", "other", "tie", "bad", "flip", "edit", "keep", "leave", "tag", "note", "redo", "aside", "recipe",
         "bring"}
    )  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "accept", "accept", id="review.accept"),
        Binding("x", "reject", "reject", id="review.reject"),
        Binding("space", "skip", "later", id="review.later"),
        Binding("d", "other", "the other side is better", id="review.other"),
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

    def __init__(self) -> None:
        super().__init__()
        self._work: Work | None = None
        self._at = -1  # the record that is drawn
        self._index = 0  # where it stands among those that are shown
        self._flipped = False
        self._aside = False
        self._editing: PartView | None = None
        self._from = 0  # where the cursor stood before
        self._drafts: dict[tuple[int, str], str] = {}
        self._decided_at: list[float] = []
        self._masks: dict[str, Mask | MlxtuneError] = {}
        self._asked: str = ""  # the row whose mask is being asked for
        self._verdicts: tuple[str, tuple[Verdict, ...]] = ("", ())
        self._tags: list[str] = []

    def body(self) -> ComposeResult:
        yield Section("Review", Draw(id="review-invite"), lit=True, id="review-empty")
        with Vertical(id="review-body"):
            yield Draw(id="progress")
            with Container(id="review-columns"):
                with Vertical(id="read-side"):
                    yield Section(
                        "Row",
                        Talk(
                            id="talk",
                            about="The row, part by part. What trains has a bar before it; e edits the part under the cursor.",
                        ),
                        Container(Editor(id="editor"), id="editor-box"),
                        id="read",
                        classes="fill",
                    )
                with Vertical(id="aside"):
                    yield Section(
                        "Contract",
                        Pane(id="contract", about="What the recipe asks of this answer, and whether it holds."),
                        id="contract-section",
                    )
                    yield Section(
                        "Findings", Pane(id="found-here", about="What checks find about this row."), id="findings-section"
                    )
                    yield Section(
                        "Tags",
                        Pane(id="tags", about="A digit puts a tag on the row or takes it off; t takes any word."),
                        id="tags-section",
                    )
                    yield Section(
                        "Where it comes from",
                        Pane(id="origin", about="Where the row stands, and who decided what about it."),
                        id="origin-section",
                    )
            yield Draw(id="contract-line")

    @property
    def bench(self) -> Workbench:
        return workbench(self.app)

    @property
    def work(self) -> Work | None:
        """The source on show, once it is open and has rows."""
        work = self.bench.work
        return work if work is not None and work.browse is not None and len(work.browse) and work.error is None else None

    @property
    def row(self) -> Row | None:
        """The row on show, as the review leaves it; ``None`` where it is no row."""
        if (work := self.work) is None:
            return None
        found = work.source.seen(work.at).now_or_error
        return None if isinstance(found, DataError) else found

    # News

    def on_mount(self) -> None:
        self.bench.join(self)
        super().on_mount()

    def on_unmount(self) -> None:
        self.bench.leave(self)

    def on_screen_suspend(self) -> None:
        if self.desk.current_mode not in ("data", "review"):
            self.bench.let_go()

    def on_news(self, _message: News) -> None:
        if self.is_current:
            self.show()
            self.refresh_bindings()

    def draw(self, snapshot: Snapshot) -> None:
        work = self.bench.turn_to(self.desk.recipe)
        ready = self.work
        self.set_class(ready is None, "-bare")
        self.set_class(self._aside, "-aside")
        if work is not self._work:
            self._work, self._at, self._masks, self._asked, self._tags = work, -1, {}, "", []
            self._leave()
        if ready is None:
            view = self.desk.recipe
            self.query_one("#review-invite", Draw).show(
                lambda width, _height: (
                    broken(work, width) if work else invite(view.error if view else "", bool(snapshot.recipes), width)
                )
            )
            return
        if self.desk.wanted_row and (found := ready.source.starting(self.desk.wanted_row)):
            ready.at, self.desk.wanted_row = found[0], None
        self._place(ready)
        row, source = self.row, ready.source
        held = source.decision(ready.at)
        self._read(ready, row, held)
        self._beside(ready, row, held)
        usable = len(source) - source.bad
        decided = sum(one.status not in ("pending", "skipped") for one in source.decided.values())
        aside = f"{self._index + 1:,} of {len(ready.shown.rows):,} shown" if ready.shown.filter.strip() else ""
        pace = self._pace()
        self.query_one("#progress", Draw).show(lambda width, _height: pictures.progress(decided, usable, pace, aside, width))

    def _place(self, work: Work) -> None:
        """Find the row among those that are shown; where it is not among them any more, the review stays on it."""
        rows = work.shown.rows
        if not (self._index < len(rows) and rows[self._index] == work.at):
            self._index = work.index()
        if work.at != self._at:
            self._at, self._flipped = work.at, False
            self._leave()
            row = self.row
            parts = parts_of(row) if row else ()
            self.query_one(Talk).set(len(parts), self._rows(work, row), cursor=_answer_of(parts))
            self._ask_for_mask(work)

    def _read(self, work: Work, row: Row | None, held: Decision) -> None:
        """The row itself."""
        section, mark = self.query_one("#read", Section), mark_of(held)
        title = f"Row {work.at + 1:,}" + (f", editing {self._editing.name}" if self._editing else "")
        state = held.status if held.status != "pending" else ("edited" if held.record is not None else "")
        note = line((f"{mark[0]} {state}   ", f"bold {mark[1]}") if state else "", (self._note(row), "$muted"))
        section.head.set(title=title, note=note)
        section.set_class(self._editing is not None, "-editing")
        if self._editing is not None:
            self.query_one(Talk).set(1, self._rows(work, row), cursor=0)
        else:
            self.query_one(Talk).set(len(parts_of(row)) if row else 0, self._rows(work, row))

    def _note(self, row: Row | None) -> str:
        """What is known of its tokens, and how."""
        if row is None:
            return "cannot be read"
        found = self._masks.get(row.hash)
        label = f"{wanted(row)}, " if wanted(row) else ""
        if isinstance(found, Mask):
            return f"{label}{found.tokens:,} tokens, {found.trained:,} of them train"
        return f"{label}trained by turn" + ("; tokens are not known" if found else "")

    def _rows(self, work: Work, row: Row | None) -> Callable[[int, int], Rows]:
        source = work.source
        if row is None:
            record = source.seen(work.at).now_or_error
            return lambda width, cursor: (_unreadable(record, width), [])
        parts = parts_of(row)
        found = self._masks.get(row.hash)
        turns = found.turns if isinstance(found, Mask) else None
        window, air, flipped = (source.checked.max_tokens if source.checked else 0), self.tall, self._flipped
        if (part := self._editing) is not None:
            return lambda width, cursor: talk.written(parts, turns, part, window, width, air)
        if is_pair(row) and (self.size.width or 80) >= 70:
            return lambda width, cursor: talk.pair(parts, turns, width, cursor, air, flipped)
        return lambda width, cursor: talk.conversation(parts, turns, window, width, cursor, air)

    def _beside(self, work: Work, row: Row | None, held: Decision) -> None:
        """What stands beside the row."""
        source = work.source
        judged = self._judged(work, self._candidate(row))
        fails = sum(not one.holds for one in judged)
        note = f"{fails} of {len(judged)} {'fails' if fails == 1 else 'fail'}" if fails else "holds" if judged else ""
        self.query_one("#contract-section", Section).head.set(note=note)
        why = (
            "There is no contract."
            if work.where.recipe is None or not work.where.recipe.contract
            else "The contract is not about this row."
        )
        self.query_one("#contract", Draw).show(lambda width, _height: pictures.contract(judged, why, width))
        self.query_one("#contract-line", Draw).show(lambda width, _height: pictures.contract_line(judged, width))
        found = [one for one in source.findings(work.at) if not one.check.startswith("contract-") and one.severity != "note"]
        self.query_one("#findings-section").display = bool(found)
        self.query_one("#found-here", Draw).show(lambda width, _height: pictures.findings(found, width))
        known, own = self._known_tags(work), tags(row) if row else ()
        self.query_one("#tags", Draw).show(lambda width, _height: pictures.tags(known, own, width))
        where = origin(work.source, work.at, row)
        self.query_one("#origin", Draw).show(lambda width, _height: pictures.facts(where, width))

    def _candidate(self, row: Row | None) -> Row | None:
        """The row as it would be with what is written in the editor."""
        if row is None or self._editing is None:
            return row
        from mlxtune.data.checks.look import rewritten

        name, text = self._editing.name, restored(self._editing.text, self.query_one(Editor).text)
        return rewritten(row, lambda part, said: text if part == name else said)

    def _judged(self, work: Work, row: Row | None) -> tuple[Verdict, ...]:
        """The contract's word on the row's answer."""
        if row is None or work.contract is None:
            return ()
        if self._verdicts[0] != row.hash:
            self._verdicts = (row.hash, verdicts(work.contract, row))
        return self._verdicts[1]

    def _known_tags(self, work: Work) -> list[str]:
        """The tags that digits stand for: the most frequent ones first, and none changes its place while the room is open."""
        counts = Counter(work.source.tags)
        for held in work.source.decided.values():
            counts.update(held.tags or ())
        self._tags += [tag for tag, _ in counts.most_common(20) if tag not in self._tags]
        return self._tags[:9]

    # Tokens

    def _ask_for_mask(self, work: Work) -> None:
        """Ask which tokens train, for this row and then for the next."""
        wanted = [work.at, *(int(at) for at in work.shown.rows[self._index + 1 : self._index + 2])]
        if work.where.recipe is None or isinstance(self._masks.get(""), MlxtuneError):
            return
        rows = [row for at in wanted if not isinstance(row := work.source.seen(at).now_or_error, DataError)]
        rows = [row for row in rows if row.hash not in self._masks]
        if not rows or rows[0].hash == self._asked:
            return
        self._asked = rows[0].hash

        def job() -> dict[str, Mask | MlxtuneError]:
            return work.masks_of(rows)

        def done(found: dict[str, Mask | MlxtuneError]) -> None:
            self._asked = ""
            self._masks |= found
            if self.is_current:
                self.show()

        self.fetch(job, done)

    # What can be done

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

    def _pace(self) -> float | None:
        """Seconds that a decision took, the median of the last ones."""
        gaps = sorted(gap for one, two in zip(self._decided_at, self._decided_at[1:], strict=False) if (gap := two - one) < _IDLE)
        return gaps[len(gaps) // 2] if len(gaps) >= 3 else None

    def action_undo(self) -> None:
        self._turn_back("undo")

    def action_redo(self) -> None:
        self._turn_back("redo")

    def _turn_back(self, which: str) -> None:
        if (work := self.work) is None or self.desk.busy:
            return
        try:
            self.desk.reply(curate.turned_back(work, which))
        except MlxtuneError as error:
            self.desk.reply(sorry(error))

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

    # Writing a part anew

    def action_edit(self) -> None:
        work, row = self.work, self.row
        if work is None or row is None:
            return
        self._aside = False
        parts = parts_of(row)
        self._from = max(0, min(self.query_one(Talk).cursor, len(parts) - 1))
        self._editing = parts[self._from]
        editor = self.query_one(Editor)
        editor.load_text(self._drafts.get((work.at, self._editing.name), safe_text(self._editing.text)))
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
        work, row, part = self.work, self.row, self._editing
        if work is None or row is None or part is None:
            return
        candidate = self._candidate(row)
        assert candidate is not None
        if self._decide("edit", stay=True, record=candidate.content):
            self._drafts.pop((work.at, part.name), None)
            self._leave()
            self._ask_for_mask(work)
            self.show()

    def action_leave(self) -> None:
        work, part = self.work, self._editing
        if work is not None and part is not None:
            text = self.query_one(Editor).text
            if text != safe_text(part.text):
                self._drafts[(work.at, part.name)] = text
                self.desk.reply(
                    Answer("·", "$muted", "The row is as it was. What you wrote waits:", undo=Verb("e", "go on", "edit"))
                )
        self._leave()
        self.show()
        self.refresh_bindings()

    def _leave(self) -> None:
        if self._editing is not None:
            self._editing = None
            if (work := self.work) is not None and (row := self.row) is not None:
                self.query_one(Talk).set(len(parts_of(row)), self._rows(work, row), cursor=self._from)
            self.query_one(Talk).focus()

    def action_recipe(self) -> None:
        self.bench.open_file(None)
        self.desk.choose_recipe()

    def action_bring(self) -> None:
        curate.ask_to_import(self, self.bench)


def _answer_of(parts: Sequence[PartView]) -> int:
    """The part that a reviewer looks at first: the answer that trains; of a pair, the first of both."""
    names = [part.name for part in parts]
    return names.index(SIDES[0]) if SIDES[0] in names else max(len(parts) - 1, 0)


def _unreadable(record: Row | DataError, width: int) -> list[Content]:
    """Why there is nothing to review here."""
    if not isinstance(record, DataError):
        return []
    why = record.why if isinstance(record, RowError) else record.message
    said = lines(
        line(("  ✗ ", "bold $error"), fold(f"This is no row: {one_line(why)}", width - 2, "    ", "")[4:]),
        fold(one_line(record.mend), width, "    "),
        "",
        line("    ", key("D", "findings and fixes", "app.room('data')"), "   ", key("→", "next row", "screen.next")),
    )
    return said.split("\n", allow_blank=True)
