"""Blind: two arms' answers side by side without names, three questions per pair, and the result after the last one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Key

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import display_path, file_stamp
from mlxtune.core.text import one_line, plural, safe_text
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import is_free
from mlxtune.evaluation.blind.blind_session import (
    BlindSession,
    BlindStatus,
    PresentedPair,
    Vote,
    blind_status,
    count_differing,
    export_votes,
    repeated_pairs,
)
from mlxtune.evaluation.blind.votes import HEADLINE_QUESTION, QUESTIONS, BlindResult
from mlxtune.evaluation.evidence import load_pairs
from mlxtune.evaluation.statistics.significance import detectable_preference
from mlxtune.present.comparison import blind_verdict, rater_facts, votes_table
from mlxtune.tui.actions import Action
from mlxtune.tui.draw import block_rows, table_rows, text_rows
from mlxtune.tui.notices import Notice
from mlxtune.tui.paths import relative_paths, unused
from mlxtune.tui.render.bars import bar
from mlxtune.tui.render.output_text import output_rows
from mlxtune.tui.render.source import message_rows
from mlxtune.tui.render.text import RECIPE_KEY, cell, error_rows, invitation, key, line, lines, paragraph, wrap
from mlxtune.tui.room import Room
from mlxtune.tui.widgets import ChoiceOption, Invitation, PageScreen, Panel, Section
from mlxtune.workspace.index import RunView, Snapshot


@dataclass(frozen=True)
class ArmPair:
    """Two of an evaluation's ``arms``. ``status`` is their session's progress, or ``None`` before it begins."""

    folder: Path
    first: str
    second: str
    arms: tuple[str, ...]
    status: BlindStatus | None


def load_arms(folder: Path, arms: tuple[str, str] | None = None) -> ArmPair | None:
    """Return two arms of an evaluation that generate, by default those of its verdict, or ``None`` if it has only one.

    Raise ``InputError`` if its report or session cannot be read.
    """
    report = reports.load(folder)
    names = tuple(arm.name for arm in report.arms if not is_free(arm.name))
    if len(names) < 2:
        return None
    verdict = (report.headline.first, report.headline.second) if report.headline else ()
    first, second = arms or (verdict if verdict and {*verdict} <= {*names} else (names[0], names[-1]))
    return ArmPair(folder, first, second, names, blind_status(folder, first, second))


def open_session(arms: ArmPair, n: int) -> tuple[BlindSession, BlindResult | None]:
    """Open the session, or begin one with ``n`` pairs. Return it with its result, if revealed. Raise the errors of ``BlindSession``."""
    session = BlindSession(arms.folder, arms.first, arms.second, load_pairs(arms.folder, arms.first, arms.second), n)
    return session, session.reveal() if session.opened else None


State = Literal["choice", "vote", "end", "result"]
PAIR_COUNTS = (10, 20, 40, 80)
_CLEARLY_FEWER = 0.75  # of all pairs; with hardly fewer, no less can be detected
DEFAULT_PAIRS = 40
DEBOUNCE = 0.05  # seconds after which the same key is another vote


class BlindRoom(Room):
    """Holds a session's lock while it is open. Every vote is written to disk immediately."""

    ABOUT = "compare two arms without knowing which is which"
    CSS_PATH = "style.tcss"
    ACTIONS = (
        Action("vote('a')", "a", "A", "the left answer", when="pair", id="a"),
        Action("vote('tie')", "=", "same", "no difference", when="pair", id="same"),
        Action("vote('b')", "d", "B", "the right answer", when="pair", id="b"),
        Action("enter", "enter", lambda room: room.enter_label, "open or reveal", when="enter_label",
               command="blind EVALUATION"),
        Action("undo", "u", "undo", when=lambda room: room.state == "end" or (room.state == "vote" and room._session.votes),
               why="Nothing to undo."),
        Action("prompt", "g", "prompt", when="pair"),
        Action("export", "w", "export", "votes as preferences", when=lambda room: room.state == "result",
               command="blind EVALUATION --export FILE"),
        Action("arms", "c", "compare", "two other arms",
               when=lambda room: room.state in ("choice", "result") and room._arms and len(room._arms.arms) > 2, why="No other arms."),
        Action("other", "o", "open", "another evaluation", when=lambda room: len(room.app.selection.evaluations) > 1,
               why="No other evaluation."),
        Action("scroll(1)", "down,j", help="down", id="down"),
        Action("scroll(-1)", "up,k", help="up", id="up"),
        Action("scroll(8)", "pagedown,space", help="a page down", id="page-down"),
        Action("scroll(-8)", "pageup", help="a page up", id="page-up"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._selected: str | None = None  # the ID of the selected evaluation
        self._arms: ArmPair | None = None
        self._inputs: object = None  # the files that the arms were read from, as they were then
        self._error: MlxtuneError | None = None
        self._one_arm = False
        self._session: BlindSession | None = None
        self._result: BlindResult | None = None
        self._scroll = 0
        self._typed = self._voted = ("", 0.0)  # the last key, and the last one that voted, with their times

    def compose_body(self) -> ComposeResult:
        yield Invitation("Blind")
        with Vertical(id="bl-vote"):
            yield Panel(id="bl-progress")
            yield Section("Prompt", Panel(id="bl-prompt"), id="bl-asked")
            with Horizontal(id="bl-pair"):
                yield Panel(id="bl-a", classes="seal")
                yield Panel(id="bl-b", classes="seal")
            yield Section("Which one?", Panel(id="bl-asks"), lit=True, id="bl-questions")
        yield Section("Finished", Panel(id="bl-finished"), lit=True, id="bl-end")
        with Vertical(id="bl-result"):
            yield Section("Verdict", Panel(id="bl-verdict"), lit=True, id="bl-outcome")
            yield Section("Votes", Panel(id="bl-votes"), id="bl-counts")
            yield Section("Rater", Panel(id="bl-facts"), id="bl-rater")

    def _wanted(self) -> RunView | None:
        """Return the selected evaluation, or else the best one with several arms."""
        several = [view for view in self.app.selection.evaluations if len(view.state.arms) > 1]
        chosen = next((view for view in self.app.selection.evaluations if view.id == self._selected), None)
        return chosen or self.app.selection.preferred_evaluation(None, several) or next(iter(self.app.selection.evaluations), None)

    @property
    def state(self) -> State:
        if self._session is None:
            return "choice"
        if self._result is not None:
            return "result"
        return "vote" if self._session.current else "end"

    @property
    def pair(self) -> PresentedPair | None:
        return self._session.current if self._session else None

    def draw(self, snapshot: Snapshot) -> None:
        arms, view = self._arms, self._wanted()
        if self._session is None and view is None:
            self._arms = self._inputs = None
        elif self._session is None and view is not None and self._inputs != _stamps(view.run.folder):  # another program votes, too
            self._load_arms(view, (arms.first, arms.second) if arms and arms.folder == view.run.folder else None)
        for state in ("vote", "end", "result"):
            self.query_one(f"#bl-{state}").display = state == self.state
        session = self._session
        self.invite(None if session else lambda width, _height: self._draw_choice(snapshot, width))
        if self._result is not None:
            self._draw_result(self._result)
        elif session is not None and session.current is not None:
            self._draw_pair(session, session.current)
        elif session is not None:
            keys = key("enter", "reveal the arms", "screen.enter"), key("u", "undo the last vote", "screen.undo")
            about = f"{plural(session.n, 'pair')} judged; revealing the arms fixes the votes"
            self.query_one("#bl-finished", Panel).update(
                lambda width, _height: invitation(width, "That was the last vote.", *keys, about=about)
            )

    def _draw_choice(self, snapshot: Snapshot, width: int) -> Content:
        if self._error is not None:
            return lines(*error_rows(self._error, width))
        if self._arms is not None:
            return session_state(self._arms, width)
        start = key("E", "evaluate an adapter first", "app.room('evaluate')") if snapshot.recipes else RECIPE_KEY
        return invitation(width, "The newest evaluation has only one arm." if self._one_arm else "No evaluations yet.", start)

    def _draw_pair(self, session: BlindSession, pair: PresentedPair) -> None:
        given, first, max_rows = session.pending_votes, self._scroll, 5 if self.tall else 2
        self.query_one("#bl-progress", Panel).update(lambda width, _height: draw_progress(session, pair, width))
        self.query_one("#bl-prompt", Panel).update(lambda width, _height: draw_prompt(pair, width, max_rows))
        for name, text in (("a", pair.a), ("b", pair.b)):
            seal = self.query_one(f"#bl-{name}", Panel)
            seal.update(partial(draw_answer, text, first))
            rows, height = len(answer_lines(text, seal.content_size.width)), seal.content_size.height
            seal.border_title = f" {name.upper()} "
            seal.border_subtitle = " ↓ more " if first + height < rows else " hidden "
        answered = f"{len(given)} of {len(QUESTIONS)} answered"
        self.section("#bl-questions").show(lambda width, _height: draw_questions(given, width), note=answered)

    def _draw_result(self, result: BlindResult) -> None:
        votes, test = replace(votes_table(result), title="", note=""), "sign test, Holm" if self.wide else ""
        pairs = f"{plural(result.pairs, 'pair')}, read blind"
        self.section("#bl-outcome").show(lambda width, _height: lines(*text_rows(blind_verdict(result), width)), note=pairs)
        self.section("#bl-counts").show(lambda width, _height: lines(*table_rows(votes, width)), note=test)
        self.section("#bl-rater").show(lambda width, _height: lines(*block_rows(rater_facts(result), width)))

    def _load_arms(self, view: RunView, arms: tuple[str, str] | None = None) -> None:
        self._inputs, self._error = _stamps(view.run.folder), None
        self.run_job(partial(load_arms, view.run.folder, arms), self._show_arms, self._show_error, group="arms")

    def _show_arms(self, arms: ArmPair | None) -> None:
        self._arms, self._one_arm = arms, arms is None

    def _show_error(self, error: MlxtuneError) -> None:
        self._arms = None
        hint = error.hint or "Evaluate again, or choose another report."
        self._error = MlxtuneError(relative_paths(self.app.workspace, one_line(error.message)), hint=hint)

    @property
    def enter_label(self) -> str:
        """What enter does in the current state, or an empty string if it does nothing."""
        if self.state == "end":
            return "reveal"
        if self.state != "choice" or self._arms is None:
            return ""
        status = self._arms.status
        return "begin" if status is None else "result" if status.opened else "continue"

    def action_enter(self) -> None:
        session, arms = self._session, self._arms
        if session is not None:
            if self.state == "end":
                self.run_job(session.reveal, self._show_result)
        elif arms is not None and arms.status is None:
            self.run_job(
                lambda: count_differing(load_pairs(arms.folder, arms.first, arms.second)), partial(self._choose_pair_count, arms)
            )
        elif arms is not None:
            self._open(arms, 0)

    def _choose_pair_count(self, arms: ArmPair, available: int) -> None:
        if not available:
            text = f"{one_line(arms.first)} and {one_line(arms.second)} give identical answers, so there is nothing to compare."
            self.app.notices.show(Notice("note", text))
            return
        counts = sorted({*(n for n in PAIR_COUNTS if n <= _CLEARLY_FEWER * available), available})
        counts.sort(key=lambda n: n != min(DEFAULT_PAIRS, available))  # the default first
        options = []
        for n in counts:
            least = detectable_preference(n)
            power = f"detects ≥ {least:.0%}" if least else "too few to tell"
            options.append(ChoiceOption(n, plural(n, "pair"), f"and {repeated_pairs(n)} of them again   {power}"))
        text = "The number is fixed before the first vote."
        self.app.choose("How many pairs?", options, partial(self._open, arms), text)

    def _open(self, arms: ArmPair, n: int) -> None:
        self.run_job(partial(open_session, arms, n), self._show_session)

    def _show_session(self, opened: tuple[BlindSession, BlindResult | None]) -> None:
        self._close_session()
        (self._session, self._result), self._scroll = opened, 0
        self.redraw()
        self.call_after_refresh(self.redraw)  # the subtitles need the sides' heights

    def _show_result(self, result: BlindResult) -> None:
        self._result = result

    def _close_session(self) -> None:
        """Release the session's lock. Its votes are on disk."""
        if self._session:
            self._session.close()
        self._session = self._result = self._inputs = None

    on_unmount = _close_session

    def on_key(self, event: Key) -> None:
        self._typed = (event.key, event.time)

    def action_vote(self, vote: Vote) -> None:
        session, pair, (key, time), (last_key, last_time) = self._session, self.pair, self._typed, self._voted
        self._voted = self._typed
        bounces = key == last_key and time - last_time < DEBOUNCE
        if session is not None and pair is not None and not bounces:
            self._write(lambda: session.vote(vote), pair)

    def action_undo(self) -> None:
        if session := self._session:
            self._write(session.undo, None)

    def _write(self, change: Callable[[], object], pair: PresentedPair | None) -> None:
        """Write a vote or an undo. Scroll to the top if a pair other than ``pair`` is shown."""
        with self.app.notices.showing_errors():
            change()
            after = self.pair
            if pair is None or after is None or after.index != pair.index:
                self._scroll = 0
            self.app.notices.show(None)

    def action_scroll(self, by: int) -> None:
        pair = self.pair
        if pair is None:
            return
        seals = [(self.query_one(f"#bl-{name}", Panel), text) for name, text in (("a", pair.a), ("b", pair.b))]
        last = max(len(answer_lines(text, seal.content_size.width)) - seal.content_size.height for seal, text in seals)
        self._scroll = max(0, min(self._scroll + by, last))
        self.redraw()

    def action_prompt(self) -> None:
        if pair := self.pair:
            self.app.push_screen(PageScreen("Prompt", partial(message_rows, pair.prompt)))

    def action_arms(self) -> None:
        if (view := self._wanted()) is None or (arms := self._arms) is None:
            return

        def chosen(pair: tuple[str, str]) -> None:
            self._close_session()
            self._arms = None
            self._load_arms(view, pair)

        options = [ChoiceOption(pair, " or ".join(map(one_line, pair))) for pair in combinations(arms.arms, 2)]
        self.app.choose("Which two arms?", options, chosen)

    def action_other(self) -> None:
        def chosen(view: RunView) -> None:
            self._close_session()
            self._selected, self._arms = view.id, None
            self.redraw()

        self.app.selection.choose_evaluation("Which evaluation?", self.app.selection.evaluations, chosen)

    def action_export(self) -> None:
        if (session := self._session) is None or (result := self._result) is None:
            return
        tallies = sorted(result.tallies, key=lambda tally: tally.question != HEADLINE_QUESTION)
        options = [
            ChoiceOption(tally.question, QUESTIONS[tally.question], plural(tally.wins + tally.losses, "decided vote"))
            for tally in tallies
        ]
        text = "A model trained on these held-out rows cannot be tested on them."
        self.app.choose("Export the votes on which question?", options, partial(self._export, session), text)

    def _export(self, session: BlindSession, question: str) -> None:
        workspace = self.app.workspace
        path = unused(workspace / "data" / f"{session.evaluation.name}-{question}.jsonl")

        def job() -> Notice:
            pairs = plural(export_votes(session, path, question), "preference pair")
            return Notice("done", f"Wrote {pairs} to {display_path(path, workspace, path.name)}.")

        self.app.jobs.run(job, busy="")


def _stamps(evaluation: Path) -> tuple[object, ...]:
    return evaluation, *(file_stamp(file) for file in sorted(evaluation.glob("blind/*/votes.jsonl")))


QUESTION = 44  # cells of a question


def session_state(arms: ArmPair, width: int) -> Content:
    first, second, status = one_line(arms.first), one_line(arms.second), arms.status
    rows = [
        paragraph(f"{first} or {second}?", width, style="bold"),
        paragraph(f"evaluation {one_line(arms.folder.name)}", width),
        Content(""),
    ]
    word, note = "begin", ""
    if status and status.opened:
        word, note = "see the result", f"{plural(status.pairs, 'pair')} judged"
    elif status:
        word, note = "continue", f"{status.votes:,} of {plural(status.votes_needed, 'vote')} cast"
    rows.append(line("  ", key("enter", word, "screen.enter"), (f"   {note}", "$muted")))
    if status and not status.opened:
        rows.append(line("         ", bar(status.votes / max(1, status.votes_needed), min(width - 12, 40))))
    return lines(*rows, *(() if status else (Content(""), draw_questions((), width))))


def draw_progress(session: BlindSession, pair: PresentedPair, width: int) -> Content:
    left = line((f"  Pair {pair.index + 1:,}", "bold"), (f" of {pair.total:,}  ", "$muted"))
    right = line((f"  {session.n:,} pairs, {pair.total - session.n:,} of them again", "$muted")) if width >= 70 else Content("")
    filled = bar(session.votes / max(1, session.votes_needed), width - left.cell_length - right.cell_length)
    return line(left, filled, right)


def draw_prompt(pair: PresentedPair, width: int, max_rows: int) -> Content:
    text = next((message.content for message in reversed(pair.prompt) if message.role == "user"), "")
    shown = safe_text(text).strip().expandtabs(4) if max_rows > 2 else one_line(text)
    rows = wrap(shown or "(empty)", width - 4)
    if len(rows) <= max_rows:
        return lines(*(f"  {row}" for row in rows))
    more = line("… ", key("g", "more", "screen.prompt", "$muted")).stylize_before("$muted")
    last = cell(rows[max_rows - 1], width - 4 - more.cell_length - 1)
    return lines(*(f"  {row}" for row in rows[: max_rows - 1]), line("  ", last, " ", more))


def draw_answer(text: str, first: int, width: int, height: int) -> Content:
    rows = answer_lines(text, width)
    start = max(0, min(first, len(rows) - height))
    return lines(*rows[start:][: height or None])


def answer_lines(text: str, width: int) -> list[Content]:
    return output_rows(text, None, width) if text.strip() else [Content.styled("(empty)", "$faint")]


def draw_questions(given: Sequence[Vote], width: int) -> Content:
    rows = []
    for index, question in enumerate(QUESTIONS.values()):
        current, vote = index == len(given), given[index] if index < len(given) else None
        cells = [
            (f"{'●' if vote == value else '○'} {word:<8}", "bold $primary" if vote == value else "$muted")
            for value, word in (("a", "A"), ("tie", "same"), ("b", "B"))
        ]
        style = "bold" if current else "" if vote else "$muted"
        text = cell(question, min(QUESTION, max(width - 36, 10)), style)
        cursor = ("▌ " if current else "  ", "$primary")
        rows.append(line(cursor, (f"{index + 1}  ", "$faint"), text, " ", *cells))
    return lines(*rows)
