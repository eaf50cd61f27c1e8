"""The Groups room: rows that repeat or contradict each other, and clusters of similar rows, decided group by group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content

from mlxtune.core.child_process import StoppableCall
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.data.groups import PROPOSED, ClusterResult, RowGroup, finding_groups, proposal_groups, start_clustering
from mlxtune.data.review import Action as ReviewAction
from mlxtune.tui.actions import Action
from mlxtune.tui.notices import Notice
from mlxtune.tui.rooms.groups import render
from mlxtune.tui.rooms.source_room import REDO, SOURCE_ACTIONS, UNDO, SourceRoom
from mlxtune.tui.source_session import SourceSession
from mlxtune.tui.widgets import Invitation, MarkableList, Panel, RowReader, Section

_DEFAULT_KEPT = 3  # default number of most diverse rows to keep
_REASONS = {"conflict": "not a conflict", "near-duplicate": "not a duplicate", "duplicate": "repeated on purpose"}


@dataclass
class _Clusters:
    """The clusters of the rows: computed, being computed (``progress``), or the reason why there are none."""

    groups: list[RowGroup] = field(default_factory=list)
    progress: str = ""
    error: str = ""
    process: StoppableCall[ClusterResult] | None = None


class GroupsRoom(SourceRoom):
    """A decision on a group is one event in the journal, so a single undo reverts it. Rows that were left out are not shown."""

    ABOUT = "duplicates, conflicts, and clusters"
    CSS_PATH = "style.tcss"
    SIDE = "#groups-side"
    AUTO_FOCUS = "#group-list"
    ACTIONS = (
        Action("open", "enter", "members", "show the members", when=lambda room: room.group and not room.on_members, bound=False),
        Action("open", "enter", "review", "open in Review", when=lambda room: room.group and room.on_members, bound=False),
        Action("keep", "f", "keep", "keep the marked rows, reject the others", when="group"),
        Action("keep_diverse", "F", "diverse", "keep the rows that differ most", when=lambda room: room.session and room._target_groups(room.session) == [room.group]),
        Action("ignore", "!", "mute", when=lambda room: room.group and room.shows_repeats,
               why="Not for clusters."),
        Action("decide('reject')", "x", "reject", "reject the marked rows", when="group",
               id="reject", command="data review {source} {row} --reject"),
        Action("decide('accept')", "a", "accept", "accept the marked rows", when="group",
               id="accept", command="data review {source} {row} --accept"),
        UNDO,
        Action("clusters", "g", "clusters", "cluster all rows",
               when=lambda room: room.session and room.shows_repeats),
        Action("switch('repeats')", "g", "repeats", "back to repeats",
               when=lambda room: room.session and not room.shows_repeats, id="repeats"),
        Action("proposals", "p", "proposals", "groups of proposals",
               when=lambda room: room.session and not room.shows_proposals),
        Action("tag", "t", "tag", when="group",
               command="data review {source} {row} --tag TAG"),
        Action("transform", ":", "change", when="group",
               command="data apply {source} PIPELINE"),
        REDO,
        *SOURCE_ACTIONS,
        Action("back", "escape", help="back"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._view = "repeats"
        self._repeats: tuple[object, list[RowGroup]] = (None, [])  # with the key of its cache
        self._clusters: _Clusters | None = None
        self._proposals: list[RowGroup] = []
        self._shown_group: tuple[str, int] | None = None
        self._decided_group: tuple[str, int] | None = None  # the group that undo returns to
        self._inside = False  # on a narrow screen, whether the members are shown in place of the groups
        self._opened_row = -1  # the row of the session for which the room was opened

    def compose_body(self) -> ComposeResult:
        yield Invitation("Groups")
        with Horizontal(id="groups-columns"):
            with Vertical(id="groups-side"):
                message = Panel(id="groups-message")
                yield Section("Groups", message, MarkableList(id="group-list"), id="groups-section", classes="fill")
            with Vertical(id="members-side"):
                yield Section("Members", MarkableList(id="member-list"), id="members")
                yield Section("Comparison", RowReader(id="compared"), id="comparison", classes="fill")

    # The groups

    @property
    def _list(self) -> MarkableList:
        return self.query_one("#group-list", MarkableList)

    @property
    def _members(self) -> MarkableList:
        return self.query_one("#member-list", MarkableList)

    def _groups(self, session: SourceSession) -> list[RowGroup]:
        browser = session.source
        if self._view == "clusters":
            return render.remaining(browser, self._clusters.groups if self._clusters else [])
        if self.shows_proposals:
            return render.remaining(browser, self._proposals)
        key = (id(browser.check_result), browser.state.next_seq, len(browser.decisions))
        if key != self._repeats[0]:
            verdict = browser.verdict
            self._repeats = (key, render.remaining(browser, finding_groups(verdict.findings)) if verdict else [])
        return self._repeats[1]

    @property
    def group(self) -> RowGroup | None:
        return self._list.pick(self._groups(self.session)) if self.session else None

    @property
    def open_group(self) -> RowGroup:
        """The group under the cursor, for an action that is possible only with one."""
        assert self.group is not None
        return self.group

    @property
    def row_under_cursor(self) -> int | None:
        group = self.group
        return self._member(group) if group else None

    def _member(self, group: RowGroup) -> int:
        return group.rows[min(self._members.cursor, len(group.rows) - 1)]

    def _target_groups(self, session: SourceSession) -> list[RowGroup]:
        marked = [group for group in self._groups(session) if group.key in self._list.marked]
        return marked or ([self.group] if self.group else [])

    # Drawing

    def change_session(self, session: SourceSession | None) -> None:
        super().change_session(session)
        self._stop_clustering()
        self._repeats, self._clusters, self._proposals = (None, []), None, []

    def draw_source(self, session: SourceSession) -> None:
        self.set_class(self._inside, "-inside")
        if self.focused is None:  # the list was hidden while the source was opened
            self.set_focus(self._members if self._inside else self._list)
        groups = self._groups(session)
        self._follow_row(session, groups)
        position = next((at for at, group in enumerate(groups) if group.key == self._shown_group), None)
        panel, browser = self._list, session.source
        panel.key = lambda position: groups[position].key
        panel.set(
            len(groups),
            lambda position, width: render.group_row(browser, groups[position], width),
            cursor=position if position is not None and not panel.marked else None,
            on_move=lambda position: self._move_to(groups[position]),
        )
        title = "Groups" if self.shows_repeats else self._view.capitalize()
        self.section("#groups-section").head.set(title=title, note=render.summary(groups))
        message = self.query_one("#groups-message", Panel)
        progress, error = self._status(session)
        message.display = not groups or bool(progress or error)
        self.set_class(not groups, "-no-groups")
        message.update(lambda width, _height: render.groups_message(len(groups), self._view, progress, error, width))
        self._draw_members(session)

    def _status(self, session: SourceSession) -> tuple[str, str]:
        if self._view == "clusters" and self._clusters is not None:
            return self._clusters.progress, self._clusters.error
        if self.shows_proposals:
            return "", ""
        check = session.check
        if check.error is not None:
            return "", one_line(check.error.message)
        return ("" if check.finished else f"{check.step or 'starting the checks'} {check.fraction:.0%}"), ""

    def _follow_row(self, session: SourceSession, groups: Sequence[RowGroup]) -> None:
        """Show the group of the row under another room's cursor, once per visit."""
        if self._opened_row == session.row_index or not (groups or session.check.finished):
            return
        self._opened_row = session.row_index
        position = next((position for position, group in enumerate(groups) if session.row_index in group.rows), None)
        if position is not None:
            self._list.cursor = position
            self._show_group(groups[position])

    def on_screen_resume(self) -> None:
        self._opened_row = -1
        super().on_screen_resume()

    def _show_group(self, group: RowGroup) -> None:
        self._shown_group = group.key
        self._members.clear_marks()
        self._members.cursor = 0

    def _move_to(self, group: RowGroup) -> None:
        self._show_group(group)
        self.redraw()

    def _draw_members(self, session: SourceSession) -> None:
        group, panel = self.group, self._members
        if group is None:
            panel.set(0, lambda _position, _width: Content(""))
            self.query_one("#compared", RowReader).set(0, lambda _width, _cursor: ([], []), cursor=0)
            self.section("#members").head.set(title="Members", note="")
            return
        if self._shown_group != group.key:
            self._show_group(group)
        browser, rows = session.source, group.rows
        prefix = render.shared_beginning(browser, group)
        panel.key = lambda position: rows[position]
        panel.styles.height = min(len(rows), max(self.app.size.height // 3, 4))
        draw_row = partial(render.member_row, browser, rows, prefix)
        panel.set(len(rows), draw_row, on_move=lambda _: self._draw_comparison())
        title = f"{plural(len(rows), 'row')}: {group.kind}"
        self.section("#members").head.set(title=title, note=one_line(group.label, 40))
        self._draw_comparison()

    def _draw_comparison(self) -> None:
        session, group = self.session, self.group
        if session is None or group is None:
            return
        browser, left = session.source, group.rows[0]
        index = self._member(group)
        other = group.rows[1] if index == left and len(group.rows) > 1 else index
        if group.kind == PROPOSED:
            left = other = index
        self.query_one("#compared", RowReader).set(
            1, lambda width, _cursor: render.comparison(browser, group.kind, left, other, width), cursor=0
        )

    # Actions

    @property
    def on_members(self) -> bool:
        return self.focused is self._members

    @property
    def shows_repeats(self) -> bool:
        return self._view == "repeats"

    @property
    def shows_proposals(self) -> bool:
        return self._view == "proposals"

    def on_markable_list_marked(self) -> None:
        self.draw_footer()

    def action_open(self) -> None:
        session, group = self.session, self.group
        if session is None or group is None:
            return
        if self.focused is not self._members:
            self._inside = True
            self.redraw()
            self.set_focus(self._members)
            return
        session.move_to(self._member(group))
        self._opened_row = session.row_in_review = session.row_index
        self.app.action_room("review")

    on_list_panel_chosen = action_open

    def action_back(self) -> None:
        for panel in (self._members, self._list):
            if panel.marked:
                panel.clear_marks()
                return
        if self._inside or self.focused is not self._list:
            self._inside = False
            self.redraw()
            self.set_focus(self._list)
        elif self.app.notices.current is not None and not self.app.notices.current.undo:
            self.app.notices.dismiss()
        else:
            self.app.action_room("data")

    @property
    def marked_rows(self) -> list[int]:
        return sorted(self._members.marked)

    def clear_marks(self) -> None:
        self._members.clear_marks()
        self._list.clear_marks()

    def has_chosen_rows(self, session: SourceSession) -> bool:
        return self.group is not None or super().has_chosen_rows(session)

    def chosen_rows(self, session: SourceSession) -> tuple[list[int], str]:
        group = self.group
        if self.marked_rows or group is None:
            return super().chosen_rows(session)
        return list(group.rows), f"{plural(len(group.rows), 'row')} of the group"

    def _rows(self) -> list[int]:
        group, session = self.group, self.session
        if self.shows_proposals and session is not None and not (self.on_members or self.marked_rows):
            return sorted(row for one in self._target_groups(session) for row in one.rows)
        return self.marked_rows or ([self._member(group)] if group else [])

    def _decide(self, action: ReviewAction, rows: Sequence[int], **more: Any) -> None:
        """Record one decision on ``rows``, and show the next group if this one is gone."""
        if (session := self.session) is not None and rows:
            self._decided_group = self._shown_group
            self.decide_rows(session, action, rows, **more)

    def _keep(self, kept: Callable[[RowGroup], Sequence[int]], reason: str) -> None:
        """Reject all rows of the target groups except those that ``kept`` returns for each."""
        if session := self.session:
            rows = sorted({row for group in self._target_groups(session) for row in set(group.rows) - set(kept(group))})
            if not rows:
                self.app.notices.show(Notice("note", "All rows are kept."))
            self._decide("reject", rows, reason=reason)

    def action_keep(self) -> None:
        """Keep the marked rows of this group, or the one under the cursor, and the first row of each other marked group."""
        key, rows = self._shown_group, self._rows()
        self._keep(lambda group: rows if group.key == key else group.rows[:1], "groups: keep")

    def action_keep_diverse(self) -> None:
        session, group = self.open_session, self.open_group

        def keep(text: str) -> None:
            self._keep(lambda group: render.diverse_rows(session, group, int(text)), f"groups: keep the {text} most diverse")

        def check(text: str) -> None:
            if not (text.isdigit() and int(text)):
                raise InputError("Enter a whole number.")

        title = f"Keep how many of {plural(len(group.rows), 'row')}?"
        text = "The others are rejected."
        value = str(min(_DEFAULT_KEPT, len(group.rows) - 1) or 1)
        self.app.ask(title, text, keep, value, label="keep", check=check)

    def action_ignore(self) -> None:
        groups, kind = self._target_groups(self.open_session), self.open_group.kind
        rows = sorted({row for one in groups if one.kind == kind for row in one.rows})

        text = f"{plural(len(rows), 'row')} will not be reported as {kind} again."
        self.app.ask(
            "Why?", text, lambda reason: self._decide("dismiss", rows, reason=reason, check=kind), _REASONS.get(kind, ""),
            label="do not ask again",
        )  # fmt: skip

    def action_undo(self) -> None:
        self._shown_group = self._decided_group or self._shown_group
        super().action_undo()

    def action_decide(self, action: ReviewAction) -> None:
        self._decide(action, self._rows())

    def action_tag(self) -> None:
        rows = self._rows()
        self.app.ask(f"Tag {plural(len(rows), 'row')}", "", lambda tag: self._decide("tag", rows, add=[tag]), label="tag")

    # Clusters

    def action_clusters(self) -> None:
        session = self.open_session
        if session.ref.recipe_path is None:
            text = "Clusters need a model, and this file has no recipe."
            self.app.notices.show(Notice("warning", text, "n in Data creates one."))
            return
        if self._clusters is None or self._clusters.error:
            self._clusters = _Clusters(progress="starting")
            self._compute(self._clusters, session.ref.recipe_path)
        self.action_switch("clusters")

    def action_proposals(self) -> None:
        session = self.open_session

        def grouped(groups: list[RowGroup]) -> None:
            self._proposals = groups if session is self.session else []
            self.action_switch("proposals")

        self.app.jobs.run(lambda: proposal_groups(render.proposed_rows(session.source)), grouped, busy="", holds_keys=True)

    def action_switch(self, view: str) -> None:
        self._view, self._shown_group = view, None
        self._list.clear_marks()
        self._list.cursor = 0
        self.redraw()

    def _compute(self, clusters: _Clusters, recipe: Path) -> None:
        def progress(step: str, share: float) -> None:
            clusters.progress = f"{step} {share:.0%}" if share else step
            self.app.call_later(self.redraw)

        def compute() -> ClusterResult | None:
            clusters.process = start_clustering(recipe)
            return clusters.process.result(progress)

        def computed(result: ClusterResult | None) -> None:
            clusters.progress, clusters.process = "", None
            clusters.groups = result.groups if result else []

        def failed(error: MlxtuneError) -> None:
            clusters.progress, clusters.error = "", one_line(f"{error.message} {error.hint}")

        self.run_job(compute, computed, failed, group="clusters")

    def _stop_clustering(self) -> None:
        if self._clusters is not None and self._clusters.process is not None:
            self._clusters.process.stop()

    def on_unmount(self) -> None:
        self._stop_clustering()
        super().on_unmount()
