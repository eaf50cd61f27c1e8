"""The Data room: the rows of a source, the findings of its checks, its lengths and splits, and decisions on many rows."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.suggester import SuggestFromList
from textual.widgets import Input

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line, plural
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.registry import check_filter_name, get_check, may_mute
from mlxtune.data.filters import WORDS
from mlxtune.data.review import ACTION_STATUS, EXCLUDED
from mlxtune.data.review import Action as ReviewAction
from mlxtune.data.rows import Preference, last_prompt
from mlxtune.evaluation.statistics.agreement import agreements
from mlxtune.present import check as words
from mlxtune.tui import open_flow
from mlxtune.tui.actions import Action, ShownAction
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.source import turn_rows
from mlxtune.tui.render.text import cell, error_rows, line, lines, paragraph, section_title
from mlxtune.tui.rooms.data import render
from mlxtune.tui.rooms.data.fix_dialog import FixChoice, FixDialog, apply_fix
from mlxtune.tui.rooms.source_room import REDO, SOURCE_ACTIONS, UNDO, SourceRoom
from mlxtune.tui.session_manager import decision_notice
from mlxtune.tui.source_session import ORDERS, SourceSession
from mlxtune.tui.widgets import ChoiceOption, Invitation, ListPanel, MarkableList, Panel, ScrollPanel, Section

_PREVIEWED = 4  # rows before a decision about many, which also tell whether all are pairs
_LEAST_PREVIEW = 5  # rows of the preview of a row, with its title
_FIX_LATER = Notice("working", "The checks are still running.", "The first finding opens as soon as they are done.")
_CHART_HEIGHTS = (4, 5)  # heights of the histogram on a short and on a tall screen


def _preview(browser: SourceBrowser, rows: Sequence[int]) -> str:
    shown = []
    for index in rows[:_PREVIEWED]:
        row = browser.lazy_row(index).current_or_error
        shown.append(f"{index + 1:,}  {one_line(row.message if isinstance(row, DataError) else last_prompt(row), 48)}")
    if len(rows) > _PREVIEWED:
        shown.append(f"and {len(rows) - _PREVIEWED:,} more")
    return "\n".join(shown)


class StatsColumn(Vertical):
    """The right column. Its sections share its height, so they are redrawn when it is resized."""

    def on_resize(self) -> None:
        if isinstance(self.screen, DataRoom):
            self.screen.redraw()


class FilterField(Input):
    """The filter above the rows. Enter leaves it at once, so that the next key acts on the rows."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "screen.leave", "rows", id="filter.leave")]


class DataRoom(SourceRoom):
    """Actions apply to the row or the finding under the cursor. The cursor of the findings follows the one of the rows."""

    ABOUT = "rows and findings"
    CSS_PATH = "style.tcss"
    SIDE = "#statistics"
    AUTO_FOCUS = "#list"
    ACTIONS = (
        Action("filter", "/", "filter", when="session",
               command="data review {source} --filter FILTER --list"),
        Action("clear_filter", "backspace", "all rows", "clear the filter", when="is_filtered"),
        Action("focused.choose", "enter", "rows", "its rows", when="on_finding", bound=False),
        Action("review", "enter", "review", "open in Review", when="on_row", bound=False),
        Action("stats", "g", lambda room: room.next_statistics, "the other statistics", when="session", late="wide",
               command="data stats {source}"),
        Action("fix", "f", "fix", "fix the finding", when="_marked_check",
               why=lambda room: _FIX_LATER if room.session and not room.can_check_again else "No finding.",
               command="data check {source} --fix --also CHECK"),
        Action("mute", "!", "mute", when="check_to_mute",
               why="Not a finding.", command="data check {source} --mute CHECK --reason REASON"),
        Action("decide('accept')", "a", "accept", when="on_row", id="accept",
               command="data review {source} {row} --accept"),
        Action("decide('reject')", "x", "reject", "reject the row, so that it is not used", when="on_row", id="reject",
               command="data review {source} {row} --reject"),
        UNDO,
        Action("bulk", "*", "bulk", "decide on all displayed rows", when="has_rows",
               command="data review {source} --filter FILTER --all --accept"),
        Action("tag", "t", "tag", "tag or untag", when="on_row", command="data review {source} {row} --tag TAG"),
        Action("transform", ":", "change", "change many rows", when="has_rows",
               command="data apply {source} PIPELINE"),
        Action("sort", "comma", "sort", when="session"),
        REDO,
        Action("check_again", ".", "recheck", "check again", command="data check {source}",
               when=lambda room: room.can_check_again or (room.session and room.session.check.base)),
        Action("check_again(True)", "b", "base check", "check again, with the base", id="check-base",
               when=lambda room: room.can_check_again and room.session.ref.recipe and not room.session.base_is_missing,
               why=lambda room: "The checks are still running." if room.session and not room.can_check_again
               else "The base check needs a recipe whose base is on this machine.", needs_accelerator=True, command="data check {recipe} --base"),
        Action("new_recipe", "n", "new recipe", "create a recipe",
               command="init --from FILE"),
        *SOURCE_ACTIONS,
        Action("map_columns", "e", "map", "map the columns",
               when=lambda room: (session := room.app.sessions.session) and session.error is None),
        Action("leave", "escape", help="back to rows"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._show_stats = False  # instead of the rows, on a screen too narrow for both
        self._show_labels = False  # instead of the findings
        self._finding_names: list[str] = []  # the checks in the list of findings
        self._histogram: tuple[object, render.LengthHistogram | None] = (None, None)  # with the key of its cache

    def compose_body(self) -> ComposeResult:
        yield Invitation("Data")
        with Horizontal(id="data-columns"):
            with Vertical(id="rows-side"):
                yield Section(
                    "Rows",
                    Horizontal(
                        Panel(lambda _width, _height: line("  ", ("/", "bold $primary"))),
                        FilterField(placeholder="status:pending  tag:x  finding:x  tokens>400  len>900 (characters)  text", compact=True, id="filter-text", suggester=SuggestFromList(WORDS)),
                        Panel(id="order"),
                        id="filter",
                    ),
                    Panel(id="message"),
                    MarkableList(id="list", has_filter=True),
                    id="row-list",
                    classes="fill",
                )  # fmt: skip
            with StatsColumn(id="statistics"):
                yield Section("Findings", ListPanel(id="findings-list"), Panel(id="summary"), id="findings")
                yield Section("Lengths", Panel(id="histogram"), id="lengths")
                yield Section("Split", Panel(id="split-bar"), id="split")
                yield Panel(id="row-preview")
                yield Section("Labels", ScrollPanel(at_end=False, id="label-bars"), id="labels", classes="fill")
                yield Section("Coverage", Panel(id="coverage-bars"), id="coverage")
                yield Section("Agreement", Panel(id="agreement-text"), id="agreement")

    # Drawing

    def change_session(self, session: SourceSession | None) -> None:
        super().change_session(session)
        self._set_filter_text(session.selection.filter if session else "")

    def draw_source(self, session: SourceSession) -> None:
        is_checked = self.can_check_again  # what a thread finds while this draws is not yet in the list of findings
        self.set_class(self._show_stats, "-stats")
        self.set_class(self._show_labels, "-labels")
        if self.focused is None:  # the list was hidden while another source was opened
            self.set_focus(self._list)
        self._draw_rows(session)
        self._draw_findings(session)
        self._draw_lengths(session)
        self._draw_split(session)
        self._draw_labels(session)
        if is_checked and self.is_current and self.app.notices.current == _FIX_LATER:
            self.app.notices.current = None
            self.app.call_later(self.app.run_action, "screen.fix")

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        if session := self.session:  # Review can clear the filter
            self._set_filter_text(session.selection.filter)

    def _set_filter_text(self, text: str) -> None:
        with (field := self.query_one("#filter-text", Input)).prevent(Input.Changed):
            field.value = text

    def _draw_rows(self, session: SourceSession) -> None:
        browser, selection = session.source, session.selection
        panel = self._list
        rows, unit = selection.rows, "tokens" if browser.check_result and len(browser.check_result.tokens) else "chars"
        on_row = panel.cursor < len(rows) and rows[panel.cursor] == session.row_index

        @lru_cache(1)
        def columns(width: int) -> render.RowColumns:
            return render.RowColumns.fit(width, browser)

        def move(position: int) -> None:
            session.move_to(int(rows[position]))  # a thread may replace selection.rows
            self._mark_finding(session)
            self._draw_position(session)
            self.draw_footer()  # nothing else depends on the cursor

        panel.set(
            len(rows),
            lambda position, width: render.table_row(browser, int(rows[position]), columns(panel.size.width), width, unit),
            cursor=panel.cursor if on_row else session.cursor_position(),
            header=lambda width: render.table_header(columns(width), unit),
            on_move=move,
        )
        panel.key = lambda position: int(rows[position])
        if len(rows):
            session.row_index = int(rows[panel.cursor])  # not move_to, because the filter may still find the previous row
        self._draw_position(session)
        order = self.query_one("#order", Panel)
        order.display = bool(ORDERS[selection.order])
        order.update(lambda width, _height: cell(ORDERS[selection.order], width, "$muted", right=True))
        message = self.query_one("#message", Panel)
        check_failed = session.check.error is not None and not self.query_one("#statistics").display
        message.display = bool(selection.error) or not len(rows) or check_failed
        message.update(lambda width, _height: render.table_message(session, width))

    @property
    def _list(self) -> MarkableList:
        return self.query_one("#list", MarkableList)

    def _draw_position(self, session: SourceSession) -> None:
        panel = self._list
        note = render.position_note(session, panel.cursor)
        marked = f"{len(panel.marked):,} marked{', marking' if panel.is_visual else ''}   " if panel.marked else ""
        self.section("#row-list").head.set(note=line((marked, "$primary"), note))
        rows_found = verdict.rows.get(self._marked_check) if self.on_finding and (verdict := session.source.verdict) else None
        index = rows_found[0] if rows_found else session.row_index
        row, title = session.source.lazy_row(index).current_or_error, f"Row {index + 1:,}"

        def preview(width: int, height: int) -> Content:
            head = section_title(title, width, f"1 of {len(rows_found):,}" if rows_found else "")
            rows = [head, Content(""), *turn_rows(row, width, height - 2)]
            return lines(*rows if height >= _LEAST_PREVIEW else ())

        self.query_one("#row-preview", Panel).update(preview)

    @property
    def marked_rows(self) -> list[int]:
        session = self.session
        return sorted(self._list.marked) if session is not None else []

    def clear_marks(self) -> None:
        self._list.clear_marks()

    def on_markable_list_marked(self) -> None:
        if session := self.session:
            self._draw_position(session)
            self.draw_footer()

    def _draw_findings(self, session: SourceSession) -> None:
        check, verdict, checked = session.check, session.source.verdict, session.source.check_result
        found = self.query_one("#findings-list", ListPanel)
        names, at = list(verdict.rows) if verdict else [], self._marked_check
        cursor = names.index(at) if at in names else None  # the cursor stays on its finding when others come and go
        self._finding_names = names
        found.display = bool(names)

        def summary(width: int) -> Content:
            if check.error is not None:
                return lines(*error_rows(check.error, width))
            if verdict and checked:
                return render.check_summary(verdict, checked, width, brief=not self.tall)
            fraction = f" {check.fraction:.0%}" if check.fraction else ""
            return paragraph(f"● {check.step or 'starting the checks'}{fraction}", width)

        kinds = ""
        if verdict:
            height = self._findings_height(summary)
            kinds = f"{len(names):,} kinds, " if len(names) > height else ""  # the list is cut, which nothing else shows
            found.styles.max_height = height

            def row(position: int, width: int) -> Content:
                name = names[position]
                return render.finding_row(name, verdict.rows[name], width, position == found.cursor)

            def move(_: int) -> None:
                if found.has_focus:  # else the cursor follows that of the rows, which are drawn anyway
                    self._draw_position(session)
                    self.draw_footer()

            found.set(len(names), row, cursor=cursor, on_move=move)
            self._mark_finding(session)
        self.query_one("#summary", Panel).update(lambda width, _height: summary(width))
        note = f"{kinds}{plural(verdict.flagged, 'row')}" if verdict and verdict.flagged else ""
        note += f", {verdict.counts.accepted:,} accepted" if verdict and verdict.counts.accepted else ""
        if verdict and not (check.finished or check.error):
            note = f"checking again {check.fraction:.0%}"
        self.section("#findings").head.set(note=note)

    @property
    def _marked_check(self) -> str:
        verdict = self.session.source.verdict if self.session else None
        name = self.query_one("#findings-list", ListPanel).pick(self._finding_names)
        return name if name and verdict and name in verdict.rows else ""

    def _mark_finding(self, session: SourceSession) -> None:
        """Move the cursor of the list of findings, unless it has the focus, to a finding about the row under the cursor, if any.

        If there are several, it is the one of the filter or, without one, the most severe one.
        """
        panel, names = self.query_one("#findings-list", ListPanel), self._finding_names
        if panel.has_focus or not len(session.selection.rows):
            return
        if panel.query_text is not None:
            panel.keep(None)
        terms = session.selection.filter.split()
        own = [finding.check for finding in session.source.findings(session.row_index) if finding.check in names]
        if own:
            filtered = (check for check in own if f"finding:{check_filter_name(check)}" in terms)
            panel.go(names.index(next(filtered, own[0])))

    def on_descendant_focus(self) -> None:
        if self.is_mounted and (session := self.session):
            self._mark_finding(session)
            self._draw_position(session)

    def _findings_height(self, summary: Callable[[int], Content]) -> int:
        """Return the number of findings that fit without pushing the sections below them off the screen."""
        column = self.query_one("#statistics").size
        gaps, chart_height = (9 if self.tall else 5), _CHART_HEIGHTS[self.tall]
        below = summary(column.width).plain.count("\n") + 1 + chart_height + 4
        return max(column.height - gaps - below, 3)

    def _draw_lengths(self, session: SourceSession) -> None:
        browser = session.source
        reason = browser.uncounted
        limit = browser.check_result.max_tokens if browser.check_result and not reason else 0

        def histogram(width: int) -> render.LengthHistogram | None:
            read = browser.scanned * 20 // max(len(browser), 1)  # every 5% of the rows
            cache_key = id(browser), id(browser.check_result), width, read, browser.revision
            if cache_key != self._histogram[0]:
                counts = render.LengthHistogram.of(browser.lengths, browser.unmeasured_count, limit, width - 2)
                self._histogram = cache_key, counts
            return self._histogram[1]

        def chart(width: int, _height: int) -> Content:
            if (counts := histogram(width)) is None:
                return paragraph("Every row was edited or left out." if browser.scanned else "No rows have been read yet.", width)
            why = f"{words.skip_text(reason)}.{session.download_hint}" if reason else ""
            return render.length_chart(counts, limit, why, _CHART_HEIGHTS[self.tall], width)

        counts = histogram(self.query_one("#histogram").size.width or 40)
        note = f"median {counts.median:,}" if counts else ""
        self.section("#lengths").show(chart, title="Lengths" if reason else "Token lengths", note=note)

    def _draw_split(self, session: SourceSession) -> None:
        checked, verdict = session.source.check_result, session.source.verdict
        counts, skip = (checked.split_sizes, checked.skipped.get("split")) if checked else ({}, None)
        why = f"No split: {words.skip_text(skip)}." if skip else "No split." if checked else "○ Not available yet."
        is_old = verdict is not None and verdict.stale
        if skip and verdict and (verdict.counts.blocked or is_old):
            why = f"✗ {plural(verdict.counts.blocked, 'row')} to fix first" if verdict.counts.blocked else "○ Not available yet."
        note = "before your changes" if is_old and any(counts.values()) else ""
        self.section("#split").show(lambda width, _height: render.split_bar(counts, why, width), note=note)

    def _draw_labels(self, session: SourceSession) -> None:
        source, checked, error = session.source, session.source.check_result, session.check.error
        why = "The checks failed, so no values were counted." if error else "The values are being counted."
        self.query_one(ScrollPanel).set(
            lambda width: render.labels(checked.statistics.tags, width) if checked else [paragraph(why, width)]
        )
        self.section("#coverage").show(lambda width, _height: render.coverage(source, checked, width))
        decisions = source.decisions.values()
        found, disputed = agreements(decisions), sum(decision.is_disputed for decision in decisions)
        agreement = self.section("#agreement")
        agreement.set_class(not found, "-none")
        agreement.show(lambda width, _height: render.agreement(found, disputed, width))

    # Actions

    def field_actions(self) -> Sequence[ShownAction]:
        return [ShownAction("enter", "rows", "screen.leave"), ShownAction("esc", "leave", "screen.leave")]

    @property
    def on_finding(self) -> bool:
        return self.session is not None and self.focused is not None and self.focused.id == "findings-list"

    @property
    def has_rows(self) -> bool:
        return self.session is not None and len(self.session.selection.rows) > 0

    @property
    def on_row(self) -> bool:
        return self.has_rows and not self.on_finding

    @property
    def can_check_again(self) -> bool:
        session = self.session
        return session is not None and (session.check.finished or session.check.error is not None)

    @property
    def next_statistics(self) -> str:
        if self.wide:
            return "findings" if self._show_labels else "labels"
        return "rows" if self._show_labels and self._show_stats else "labels" if self._show_stats else "stats"

    @property
    def check_to_mute(self) -> str:
        """The check under the cursor in the list of findings if the list has the focus and it may be muted, or else ``""``."""
        return name if self.on_finding and (name := self._marked_check) and may_mute(name) else ""

    def action_mute(self) -> None:
        session, name = self.open_session, self.check_to_mute

        def save(reason: str) -> None:
            with self.app.notices.showing_errors():
                self.app.notices.show(decision_notice(session.mute(name, reason), []))

        text = "Its findings will no longer be reported."
        self.app.ask(f"Mute {words.check_title(name)}: why?", text, save, label="mute")

    def action_filter(self) -> None:
        self._show_stats = False
        self.redraw()
        self.set_focus(self.query_one("#filter-text"))

    def action_leave(self) -> None:
        """Go back to the list of rows, or remove the marks or the notice."""
        if self._return_to_list():
            return
        if self._list.marked:
            self.clear_marks()
        else:
            self.app.notices.dismiss()

    def action_clear_filter(self) -> None:
        self._set_filter_text("")
        self._select("")

    def _return_to_list(self) -> bool:
        """Leave the statistics or the filter. Return whether the list did not have the focus."""
        if not self._show_stats and (self.focused is None or self.focused.id == "list"):
            return False
        self._show_stats = False
        self._show_labels &= self.wide
        self.redraw()
        self.set_focus(self.query_one("#list"))
        return True

    def action_stats(self) -> None:
        """Show the next page: the findings and lengths, the labels and, on a narrow screen, the rows."""
        last = self._show_labels
        self._show_labels = (self._show_stats or self.wide) and not last
        self._show_stats = not self.wide and not (self._show_stats and last)
        self.redraw()
        page = "#label-bars" if self._show_labels else "#findings-list"
        if self._show_stats or not self.wide:
            self.set_focus(self.query_one(page if self._show_stats else "#list"))
        elif self.focused is None or self.focused.id != "list":
            self.set_focus(self.query_one(page))

    def action_sort(self) -> None:
        names, session = list(ORDERS), self.open_session
        session.select(session.selection.filter, names[(names.index(session.selection.order) + 1) % len(names)])
        self.redraw()

    def action_check_again(self, base: bool = False) -> None:
        self.open_session.check_again(base)
        self.redraw()

    def action_map_columns(self) -> None:
        if (session := self.app.sessions.session) is not None:
            open_flow.map_source(self.app, session.ref)

    def action_review(self) -> None:
        self.open_session.row_in_review = self.open_session.row_index
        self.app.action_room("review")

    def action_decide(self, action: ReviewAction) -> None:
        self.decide(action)

    def on_list_panel_chosen(self, event: ListPanel.Chosen) -> None:
        session = self.session
        if session is not None and event.panel.id == "list":
            self.action_review()
        elif session is not None and (verdict := session.source.verdict) is not None:
            self._filter_by(list(verdict.rows)[event.index])

    def _filter_by(self, check: str) -> None:
        """Show the rows that count for ``check``: not those that a decision leaves out."""
        source = self.open_session.source
        statuses = {source.decision(index).status for index in source.rows_with_finding(check)}
        hidden = (f"-status:{status}" for status in sorted(EXCLUDED) if status in statuses)
        filter = " ".join([f"finding:{check_filter_name(check)}", *hidden])
        self._set_filter_text(filter)
        self._select(filter)
        self._return_to_list()

    def _select(self, filter: str) -> None:
        if session := self.session:
            session.select(filter, session.selection.order)
            self.redraw()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._select(event.value)

    # Many rows at once

    def chosen_rows(self, session: SourceSession) -> tuple[list[int], str]:
        """Return the rows of the finding under the cursor if the list of findings has the focus."""
        verdict, name = session.source.verdict, self._marked_check
        if not (self.on_finding and verdict and name):
            return super().chosen_rows(session)
        rows = sorted(set(verdict.rows[name]))
        return rows, f"{plural(len(rows), 'row')}: {words.check_title(name)}"

    def action_bulk(self) -> None:
        session = self.open_session
        rows, title = self.chosen_rows(session)
        if not rows:
            self.app.notices.show(Notice("note", "None of these rows matches the filter any more."))
            return
        count = plural(len(rows), "row")
        are_pairs = all(isinstance(session.source.records.record(index), Preference) for index in rows[:_PREVIEWED])
        actions = {"accept": "", "reject": "not used for training or evaluation", "skip": "decide later"}
        actions |= {"tie": "both are equally good", "bad": "both are bad"} if are_pairs else {}
        actions |= {"tag": "add a tag", "untag": "remove a tag", "note": "write a note about them"}
        options = [ChoiceOption(None, "Cancel", "change nothing")]
        statuses = Counter(session.source.decision(index).status for index in rows)
        for action, about in actions.items():
            changed = len(rows) - statuses[ACTION_STATUS[action]] if action in ACTION_STATUS else len(rows)
            options.append(ChoiceOption(action, f"{action.capitalize()} {changed:,}", about))
        held_out = sum(map(session.source.is_held_out, rows))
        text = _preview(session.source, rows)
        text += f"\n\n{plural(held_out, 'row')} held out: if rejected, the evaluation loses them, too." if held_out else ""

        def chosen(action: Any) -> None:
            def decide(action: Any, **more: Any) -> None:
                readable = [index for index in rows if action == "reject" or session.source.is_row(index)]
                self.decide_rows(session, action, readable, **more)

            if action in ("tag", "untag"):
                field = "add" if action == "tag" else "remove"
                self.app.ask(f"{action.capitalize()} {count}", "", lambda tag: decide("tag", **{field: [tag]}), label=action)
            elif action == "note":
                self.app.ask(f"Note on {count}", "", lambda note: decide("note", note=note))
            else:
                decide(action)

        self.app.choose(title, options, chosen, text)

    def action_fix(self) -> None:
        """Show the rows with a finding, and how its fix changes them. A fix is a decision, so it can be undone."""
        session, name = self.open_session, self._marked_check
        verdict = session.source.verdict
        assert verdict is not None  # it has the finding

        def chosen(choice: FixChoice | None) -> None:
            rows = list(choice.rows) if choice else []
            match choice.do if choice else "":
                case "fix":
                    busy = f"Fixing {plural(len(rows), 'row')}."
                    self.app.jobs.run(lambda: apply_fix(session, name, rows), busy=busy, holds_keys=True)
                case "reject":
                    self.decide_rows(session, "reject", rows, fixes=name)
                case "edit":
                    session.move_to(rows[0])
                    self.action_review()
            if choice and choice.do != "edit":  # on to the next finding that blocks training
                blocking = [own for other, own in verdict.rows.items() if other != name and get_check(other).severity == "block"]
                shown = set(map(int, session.selection.rows)).difference(rows)
                session.move_to(next((row for own in blocking for row in own if row in shown), session.row_index))

        self.app.push_screen(FixDialog(session, name, list(dict.fromkeys(verdict.rows[name]))), chosen)
