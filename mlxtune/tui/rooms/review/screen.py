"""The Review room, in which the user decides one row at a time. It steps through the rows that the Data room's filter shows."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from operator import call
from typing import Any

from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.core.text import one_line, restore_unsafe, safe_text
from mlxtune.data.checks.check_input import rewrite_texts
from mlxtune.data.review import EXCLUDED
from mlxtune.data.review import Action as ReviewAction
from mlxtune.data.rows import Preference, Row, RowError, Unpaired, row_tags
from mlxtune.evaluation.scorers import Score
from mlxtune.planning.masks import TrainingMask
from mlxtune.present.blocks import Fact
from mlxtune.present.review import decision_glyph
from mlxtune.tui.actions import Action
from mlxtune.tui.draw import fact_rows
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.text import key, line, lines
from mlxtune.tui.rooms.review import render
from mlxtune.tui.rooms.review.render import RowPart, parts_of
from mlxtune.tui.rooms.source_room import REDO, SOURCE_ACTIONS, UNDO, SourceRoom
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.widgets import ChoiceOption, EditDialog, Editor, FocusPanel, Invitation, Lines, Panel, RowReader, Section

_MAX_DRAFTS = 100  # kept after a restart
_PAUSE = 60.0  # seconds; a longer gap between two decisions counts as a break


_ONLY_PAIRS = "Not a pair."


class ReviewRoom(SourceRoom):
    """Every decision takes one key, shows a one-line notice, and moves on to the next undecided row."""

    ABOUT = "decide on rows one by one"
    CSS_PATH = "style.tcss"
    SIDE = "#details"
    AUTO_FOCUS = "#reader"
    ACTIONS = (
        Action("keep", "ctrl+s", "save", when="_edited_part"),
        Action("leave", "escape", "leave", "keep a draft", when="_edited_part", bound=False),
        Action("disclaimer", "f", "disclaimer", "add the missing disclaimer", when="with_disclaimers"),
        Action(
            "decide('accept')", "a", lambda room: "left" if room.has_pair else "accept", "accept the row, or the left answer",
            when="row", id="accept",
            command="data review {source} {row} --accept",
        ),
        Action("decide('swap')", "d", "right", "the right answer is better", when="has_pair", id="prefer-right",
               command="data review {source} {row} --swap"),
        Action("decide('tie')", "=", "tie", "both equally good: the pair is not used", when="has_pair", why=_ONLY_PAIRS, id="tie",
               command="data review {source} {row} --tie"),
        Action("decide('bad')", "0", "bad", "both bad: the pair is not used", when="has_pair", why=_ONLY_PAIRS, id="bad",
               command="data review {source} {row} --both-bad"),
        Action("decide('reject')", "x", "reject", "reject the row, so that it is not used", when="session", late="has_pair",
               id="reject", command="data review {source} {row} --reject"),
        Action("skip", "space", "skip", "decide later", when="row",
               command="data review {source} {row} --skip"),
        Action("edit", "e", "edit", "edit the part", when="session", late="has_pair",
               command="data review {source} {row} --edit FILE"),
        UNDO,
        Action("clear_filter", "backspace", "all rows", "clear the filter", when="is_filtered"),
        Action(
            "details", "g", lambda room: "row" if room.shows_details else "contract",
            "contract or row",
            when=lambda room: room.session and not room.wide, why="It is shown.",
        ),
        Action("tag", "t", "tag", "tag or untag", when="row",
               command="data review {source} {row} --tag TAG"),
        Action("swap", "%", "swap", "swap the answers on the screen", when="has_pair", why=_ONLY_PAIRS),
        Action("note", "#", "note", "note on the row", when="row", command="data review {source} {row} --note NOTE"),
        REDO,
        Action("annotator", "y", "annotator", "decide under another name", when="session",
               command="data review {source} --as NAME"),
        Action("transform", ":", "change", "change many rows", when="session",
               command="data apply {source} PIPELINE"),
        Action("go(1)", "right,l", "next", "next row", when="session", id="next"),
        Action("go(-1)", "left,h", "previous", "previous row", when="session", id="previous"),
        *SOURCE_ACTIONS,
        Action("edge(False)", "home", help="first row", when="session", id="first"),
        Action("edge(True)", "end", help="last row", when="session", id="last"),
        *(Action(f"digit({n})", str(n), help=f"tag {n}", when="session", id=f"tag-{n}") for n in range(1, 10)),
        Action("back", "escape", help="back"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._drawn_row = -1
        self._position = 0  # position of the current row among the selected ones
        self._swapped = False  # whether the rejected answer is on the left
        self.shows_details = False  # instead of the row, on a screen too narrow for both
        self._edited_part: RowPart | None = None
        self._cursor_before_edit = 0
        self._is_arriving = False  # whether the user has just come from another room
        self._draft_key = ("", "")  # the hash of the row in the source, and the part's name
        self._drafts: dict[tuple[str, str], str] = {}
        self._decision_times: list[float] = []
        self._masks: dict[str, TrainingMask | MlxtuneError] = {}
        self._computing_masks = False
        self._contract_result: tuple[str, dict[str, Score], Row | None] = ("", {}, None)  # with the row's hash
        self._tags: list[str] = []

    def compose_body(self) -> ComposeResult:
        yield Invitation("Review")
        with Vertical(id="review-body"):
            yield Panel(id="progress")
            with Horizontal(id="review-columns"):
                with Vertical(id="read-side"):
                    reader, editor = RowReader(id="reader"), Container(Editor(id="editor"), id="editor-box")
                    yield Section("Row", reader, editor, id="read", classes="fill")
                with Vertical(id="details"):
                    for id in ("contract", "findings", "tags", "origin"):
                        yield Section(id.capitalize(), FocusPanel(id=id), id=f"{id}-section")
            yield Panel(id="contract-line")

    def save_state(self) -> Mapping[str, Any]:
        self._save_draft()
        return {"drafts": [[*key, text] for key, text in self._drafts.items()][-_MAX_DRAFTS:]}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        self._drafts = {(str(row), str(part)): str(text) for row, part, text in state.get("drafts", ())}

    @property
    def has_pair(self) -> bool:
        return isinstance(self.row, Preference)

    def on_screen_resume(self) -> None:
        self._is_arriving = True
        super().on_screen_resume()

    # Drawing

    def change_session(self, session: SourceSession | None) -> None:
        super().change_session(session)
        self._drawn_row, self._masks, self._computing_masks, self._tags = -1, {}, False, []
        self._interrupt_edit()

    def draw_source(self, session: SourceSession) -> None:
        self.set_class(self.shows_details, "-details")
        if self.app.row_to_open:
            self._is_arriving = False
            self._open_requested_row(session, self.app.row_to_open)
        elif self._is_arriving:
            self._pass_decided_rows(session)
        self._find_position(session)
        row = self.row
        self._draw_row(session, row)
        self._draw_details(session, row)
        self._request_mask(session)
        decided, total = session.source.decided_count, len(session.source) - session.source.bad_count
        annotator = f"as {one_line(session.annotator, 20)}" if session.annotator else ""
        position = ", ".join(filter(None, (annotator, self._position_note(session))))
        gaps = sorted(gap for before, after in pairwise(self._decision_times) if (gap := after - before) < _PAUSE)
        pace = gaps[len(gaps) // 2] if len(gaps) >= 3 else None  # seconds per row
        self.query_one("#progress", Panel).update(lambda width, _height: render.progress(decided, total, pace, position, width))

    def _open_requested_row(self, session: SourceSession, hash_prefix: str) -> None:
        """Move to the row that another room asked for, as soon as it has been read."""
        if not (rows := session.source.rows_with_hash_prefix(hash_prefix)) and session.source.scanned < len(session.source):
            return
        self.app.row_to_open = None
        if rows:
            session.move_to(session.row_index if session.row_index in rows else rows[0])
        else:
            text = f"That row is not in {session.ref.name}."
            self.app.notices.show(Notice("warning", text, "It has been changed or removed since."))

    def _pass_decided_rows(self, session: SourceSession) -> None:
        """Move past rows with a decision, unless the user chose the current row. A row without one may not have been read yet."""
        source, index = session.source, session.row_index
        if index != session.row_in_review and not source.decision(index).is_undecided:
            if (position := self._next_undecided(session, session.cursor_position())) is not None:
                session.move_to(int(session.selection.rows[position]))
            self._is_arriving = source.scanned < len(source) or session.selection.scanned is not None
        elif index == session.row_in_review or index < source.scanned:
            self._is_arriving = False

    def _find_position(self, session: SourceSession) -> None:
        """Find the current row among the selected ones. A row that no longer matches the filter stays visible."""
        rows = session.selection.rows
        if not (self._position < len(rows) and rows[self._position] == session.row_index):
            self._position = session.cursor_position()
        if not self._is_arriving:
            session.row_in_review = session.row_index
        if session.row_index != self._drawn_row:
            self._drawn_row, self._swapped = session.row_index, False
            self._interrupt_edit()
            row = self.row
            parts = parts_of(row) if row else ()
            first = max(len(parts) - (2 if isinstance(row, Preference) else 1), 0)  # an answer
            self.query_one(RowReader).set(len(parts), self._row_lines(session, row), cursor=first)

    def _position_note(self, session: SourceSession) -> str:
        """Return the place of the current row among those that match the filter, or an empty string without a filter."""
        selection = session.selection
        if not selection.filter.strip():
            return ""
        if len(selection.rows):
            place = f"row {self._position + 1:,} of {len(selection.rows):,} for"
        else:
            place = "no row matches" if selection.scanned is None else "searching for"
        return f"{place} {one_line(selection.filter.strip(), 24)}"

    def _draw_row(self, session: SourceSession, row: Row | None) -> None:
        section, decision, edited = self.section("#read"), session.source.decision(session.row_index), self._edited_part
        glyph, style = decision_glyph(decision)
        status = decision.status if decision.status != "pending" else ("edited" if decision.record is not None else "")
        note = line((f"{glyph} {status}   ", f"bold ${style}") if status else "", (self._token_note(session, row), "$muted"))
        title = f"Row {session.row_index + 1:,}{f', editing {edited.name}' if edited else ''}"
        section.head.set(title=title, note=note)
        section.set_class(edited is not None, "-editing")
        count = 1 if edited else len(parts_of(row)) if row else 0
        self.query_one(RowReader).set(count, self._row_lines(session, row), cursor=0 if edited else None)

    def _token_note(self, session: SourceSession, row: Row | None) -> str:
        """Return the row's label and its number of tokens, or the reason why the number is unknown."""
        if row is None:
            return "unreadable"
        mask = self._masks.get(row.hash, self._masks.get(""))
        if isinstance(mask, TrainingMask):
            repeated = mask.tokens - sum(turn.tokens for turn in mask.turns)  # if each answer is trained in a row of its own
            more = " with both answers" if self.has_pair else f" ({repeated:,} in repeated turns)" if repeated > 0 else ""
            tokens = f"{mask.tokens:,} tokens{more}, {self._why_untrained(session) or f'{mask.trained:,} trained'}"
        elif session.base_is_missing:
            tokens = f"no token count: the base is missing.{session.download_hint}".rstrip(".")
        elif mask is not None:
            tokens = f"token count unavailable: {one_line(mask.message, 60)}"
        else:
            tokens = "counting tokens" if session.ref.recipe else ""
        label = ("desirable" if row.label else "undesirable") if isinstance(row, Unpaired) else ""
        return ", ".join(filter(None, (label, tokens)))

    def _why_untrained(self, session: SourceSession) -> str:
        """Return why the row is not trained on, or an empty string if it is."""
        if session.source.decision(session.row_index).status in EXCLUDED:
            return "not used"
        return "held out" if session.source.is_held_out(session.row_index) else ""

    def _row_lines(self, session: SourceSession, row: Row | None) -> Callable[[int, int], Lines]:
        source = session.source
        if row is None:
            error = source.lazy_row(session.row_index).current_or_error
            return lambda width, cursor: (render.invalid_row(error, width) if isinstance(error, DataError) else [], [])
        parts, mask = parts_of(row), self._masks.get(row.hash)
        if self._why_untrained(session):
            parts = tuple(replace(part, trains=False) for part in parts)
        turns = mask.turns if isinstance(mask, TrainingMask) else None
        window, air, swapped = (source.check_result.max_tokens if source.check_result else 0), self.tall, self._swapped
        if (edited := self._edited_part) is not None:
            shown = replace(edited, trains=edited.trains and not self._why_untrained(session))
            return lambda width, cursor: render.above_editor(parts, turns, shown, window, width, air)
        if isinstance(row, Preference) and (self.size.width or 80) >= 70:
            return lambda width, cursor: render.pair(parts, turns, width, cursor, air, swapped)
        return lambda width, cursor: render.conversation(parts, turns, window, width, cursor, air)

    def _draw_details(self, session: SourceSession, row: Row | None) -> None:
        source, index = session.source, session.row_index
        checks = self._check_contract(session, self._edited_row(row))
        failures = sum(not score.passed for score in checks.values())
        note = f"{failures} of {len(checks)} {'fails' if failures == 1 else 'fail'}" if failures else "passes" if checks else ""
        why = "There is no recipe for these rows, so no contract."
        if recipe := session.ref.recipe:
            missing = "The recipe has no contract. Set one in Plan, under evaluation."
            why = "The contract does not apply to this row." if recipe.has_contract else missing
        add_key = key("f", "add disclaimer", "screen.disclaimer") if self.with_disclaimers else None
        self.section("#contract-section").show(lambda width, _height: render.contract(checks, why, width, add_key), note=note)
        self.query_one("#contract-line", Panel).update(lambda width, _height: render.contract_line(checks, width, add_key))
        found = [one for one in source.findings(index) if not one.check.startswith("contract-") and one.severity != "note"]
        self.query_one("#findings-section").display = bool(found)
        self.query_one("#findings", Panel).update(lambda width, _height: render.findings(found, width))
        known, own = self.known_tags(session), row_tags(row) if row else ()
        self.query_one("#tags", Panel).update(lambda width, _height: render.tags(known, own, width))
        facts = [Fact(*fact) for fact in render.origin(source, index, row)]
        self.query_one("#origin", Panel).update(
            lambda width, _height: lines(*(row for fact in facts for row in fact_rows(fact, width, label_width=11)))
        )

    def _check_contract(self, session: SourceSession, row: Row | None) -> dict[str, Score]:
        if row is None or (contract := session.contract) is None:
            return {}
        if self._contract_result[0] != row.hash:
            self._contract_result = row.hash, render.check_contract(contract, row), render.add_disclaimers(contract, row)
        return self._contract_result[1]

    @property
    def with_disclaimers(self) -> Row | None:
        """The current row with its missing disclaimers added, or ``None`` if its answer lacks none."""
        row, (checked_hash, _, fixed) = self.row, self._contract_result
        return fixed if self._edited_part is None and row is not None and row.hash == checked_hash else None

    def known_tags(self, session: SourceSession) -> list[str]:
        """Return the tags assigned to the digits, most frequent first. A tag keeps its digit while the session is open."""
        counts = session.source.tags
        for decision in session.source.decisions.values():
            counts.update(decision.tags or ())
        self._tags += [tag for tag, _ in counts.most_common(20) if tag not in self._tags]
        return self._tags[:9]

    def _request_mask(self, session: SourceSession) -> None:
        """Compute the trained tokens of this row and the next one, unless those of other rows are still being computed."""
        if self._computing_masks or session.ref.recipe is None or session.base_is_missing:
            return
        if isinstance(self._masks.get(""), MlxtuneError):
            return
        indices = [session.row_index, *(int(index) for index in session.selection.rows[self._position + 1 : self._position + 2])]
        records = [session.source.lazy_row(index).current_or_error for index in indices]
        rows = [row for row in records if not isinstance(row, DataError) and row.hash not in self._masks]
        if not rows:
            return
        self._computing_masks = True

        def done(masks: dict[str, TrainingMask | MlxtuneError]) -> None:
            self._computing_masks = False
            self._masks |= masks

        self.run_job(lambda: session.token_masks(rows), done, lambda error: done({"": error}), group="mask")

    # Decisions

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a part is being edited, no other action is possible."""
        if self._edited_part is not None:
            return action in {"keep", "leave", "back"}
        return super().check_action(action, parameters)

    def decide(self, action: ReviewAction, **more: Any) -> bool:
        decided = super().decide(action, **more)
        if decided:
            self._decision_times = [*self._decision_times[-20:], time.monotonic()]
        return decided

    def action_decide(self, action: ReviewAction) -> None:
        """Record a decision and go to the next undecided row, or else to a skipped row, or else stay."""
        if self._swapped and action in ("accept", "swap"):
            action = "swap" if action == "accept" else "accept"
        if self.decide(action):
            self._advance(self.open_session)

    def _advance(self, session: SourceSession) -> bool:
        """Go to the next undecided row, or else to a skipped one. Return whether there is one."""
        position = self._next_undecided(session, self._position)
        if position is not None:
            session.move_to(int(session.selection.rows[position]))
            self._position = position
            self.redraw()
        return position is not None

    def _next_undecided(self, session: SourceSession, current: int) -> int | None:
        """Return the position of the pending row that follows the one at ``current``, or else of a skipped one."""
        rows, source = session.selection.rows, session.source
        order: list[int] = [*range(current + 1, len(rows)), *range(current)]
        for status in ("pending", "skipped"):
            for position in order:
                index = int(rows[position])
                if source.decision(index).status == status and source.may_decide(index):
                    return position
        return None

    def action_skip(self) -> None:
        session = self.open_session
        if session.source.decision(session.row_index).is_undecided:
            self.action_decide("skip")
        elif not self._advance(session):  # an earlier decision on this row stays
            self.action_go(1)

    def action_disclaimer(self) -> None:
        """Add the missing disclaimer as an edit. The row stays visible and is not accepted yet."""
        fixed = self.with_disclaimers
        if fixed is not None and self.decide("edit", record=fixed.content):
            self._request_mask(self.open_session)
            self.redraw()

    def action_clear_filter(self) -> None:
        session = self.open_session
        if not len(session.selection.rows):  # the row was shown because none matched: choose one again
            self._is_arriving, session.row_in_review = True, -1
        session.select("", session.selection.order)
        self.redraw()

    def action_swap(self) -> None:
        self._swapped = not self._swapped
        self.redraw()

    def action_digit(self, digit: int) -> None:
        known = self.known_tags(self.open_session)
        if self.row is not None and digit <= len(known):
            self.toggle_tag(known[digit - 1])

    def action_annotator(self) -> None:
        session = self.open_session
        names = sorted({name for decision in session.source.decisions.values() for name, _ in decision.by})
        title = "Review as which annotator?"

        def use(name: str) -> None:
            self.app.sessions.set_annotator(name)
            self.redraw()

        ask = partial(self.app.ask, title, "Only this annotator's decisions are shown.", use)
        options = [ChoiceOption(partial(use, ""), "Yourself", "everyone's latest decisions")]
        options += [ChoiceOption(partial(use, name), one_line(name, 20), "only their decisions") for name in names]
        options.append(ChoiceOption(ask, "Another name", "a second annotator"))
        self.app.choose(title, options, call)

    def action_note(self) -> None:
        session = self.open_session
        note = one_line(session.source.decision(session.row_index).note)
        self.app.ask(f"Note on row {session.row_index + 1:,}", "", lambda text: self.decide("note", note=text), note)

    # Moving

    def action_go(self, by: int) -> None:
        self._go_to(self._position + by)

    def action_edge(self, end: bool) -> None:
        self._go_to(len(self.open_session.selection.rows) - 1 if end else 0)

    def _go_to(self, position: int) -> None:
        session = self.open_session
        if not len(session.selection.rows):
            return
        self._is_arriving = False
        self._position = max(0, min(position, len(session.selection.rows) - 1))
        session.move_to(int(session.selection.rows[self._position]))
        self.redraw()

    def action_details(self) -> None:
        self.shows_details = not self.shows_details and not self.wide
        self.redraw()
        self.set_focus(self.query_one("#contract" if self.shows_details else "#reader"))

    def action_back(self) -> None:
        if self._edited_part is not None:
            self.action_leave()
        elif self.shows_details:
            self.action_details()
        elif self.app.notices.current is not None and not self.app.notices.current.undo:  # a notice about a decision can stay
            self.app.notices.dismiss()
        else:
            self.app.action_room("data")

    # Editing

    def action_edit(self) -> None:
        session, row = self.open_session, self.row
        if row is None:
            self._edit_record(session, session.row_index)
            return
        self.shows_details = False
        parts = parts_of(row)
        self._cursor_before_edit = max(0, min(self.query_one(RowReader).cursor, len(parts) - 1))
        self._edited_part = parts[self._cursor_before_edit]
        self._draft_key = (session.source.lazy_row(session.row_index).row.hash, self._edited_part.name)
        editor = self.query_one(Editor)
        editor.load_text(self._drafts.get(self._draft_key, safe_text(self._edited_part.text)))
        editor.action_edge(True)
        self.redraw()
        self.set_focus(editor)

    def _edit_record(self, session: SourceSession, index: int, draft: str | None = None) -> None:
        error = session.source.records.record(index)
        if not isinstance(error, RowError):
            return

        def save(text: str | None) -> None:
            if text is None:
                return
            try:
                row = session.source.records.row(index, text)
            except RowError as found:
                self._edit_record(session, index, text)
                self.app.notices.show_error(found)
            else:
                self.decide("edit", edits={session.source.key(index): row})

        raw = draft if draft is not None else error.text
        self.app.push_screen(EditDialog(f"Row {index + 1:,}", error.reason, raw), save)

    def on_text_area_changed(self) -> None:
        if self._edited_part is not None:
            self.redraw()

    def _edited_row(self, row: Row | None) -> Row | None:
        if row is None or self._edited_part is None:
            return row
        edited = self._edited_part
        restored = restore_unsafe(edited.text, self.query_one(Editor).text)  # unsafe characters were only shown as symbols
        return rewrite_texts(row, lambda part, current: restored if part == edited.name else current)

    def action_keep(self) -> None:
        edited_row = self._edited_row(self.row)
        if edited_row is not None and self.decide("edit", record=edited_row.content):
            self._drafts.pop(self._draft_key, None)
            self._end_edit()
            self._request_mask(self.open_session)
            self.redraw()

    def action_leave(self) -> None:
        if self._save_draft():
            self.app.notices.show(Notice("note", "Row unchanged; your draft is kept.", undo="edit", rooms=("review",)))
        self._end_edit()
        self.redraw()

    def _interrupt_edit(self) -> None:
        if self._save_draft():
            self.call_later(self.app.notices.show, Notice("note", "Your draft is kept with its row."))
        self._end_edit()

    def _save_draft(self) -> bool:
        """Keep the text in the editor as a draft if it differs from the row. Return whether it does."""
        if self._edited_part is None:
            return False
        text = self.query_one(Editor).text
        if text == safe_text(self._edited_part.text):
            self._drafts.pop(self._draft_key, None)
            return False
        self._drafts[self._draft_key] = text
        return True

    def _end_edit(self) -> None:
        if self._edited_part is None:
            return
        self._edited_part = None
        reader = self.query_one(RowReader)
        if (session := self.session) is not None and (row := self.row) is not None:
            reader.set(len(parts_of(row)), self._row_lines(session, row), cursor=self._cursor_before_edit)
        self.set_focus(reader)
