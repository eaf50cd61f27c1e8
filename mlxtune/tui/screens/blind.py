"""Blind: two arms' answers side by side and unnamed, three questions for each pair, and the result after the last one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual.binding import Binding, BindingType
from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural, safe_text
from mlxtune.tui import contests
from mlxtune.tui.contests import Contest
from mlxtune.tui.draw import Part, wrap
from mlxtune.tui.screens import evaluate_asks as asks
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.page import Page
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.widgets import blind_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Answer, Verb, sorry

if TYPE_CHECKING:
    from mlxtune.evaluation.ballot import Result
    from mlxtune.evaluation.blind import Session, Vote
from mlxtune.tui.screens.blind_view import BlindView

_STEPS = (10, 20, 40, 80)  # pairs that are offered


_BOUNCE = 0.15  # seconds in which a second vote is a key that bounced


class Blind(BlindView):
    """Holds a session while it is open; the app's end, or another choice, lets go of it. Every vote is on disk at once."""

    ROOM = "Blind"
    ABOUT = "read two arms' answers without knowing whose they are"
    CSS_PATH = "blind.tcss"
    VERBS = frozenset({"vote_a", "vote_same", "vote_b", "undo", "prompt", "arms", "other", "export", "enter"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "begin or go on", id="blind.enter"),
        Binding("a", "vote_a", "A", id="blind.a"),
        Binding("s,t", "vote_same", "same", id="blind.same"),
        Binding("d,b", "vote_b", "B", id="blind.b"),
        Binding("u", "undo", "undo", id="blind.undo"),
        Binding("p", "prompt", "the whole question", id="blind.prompt"),
        Binding("m", "arms", "other arms", id="blind.arms"),
        Binding("o", "other", "another evaluation", id="blind.other"),
        Binding("e", "export", "votes as pairs", id="blind.export"),
        Binding("down,j", "scroll(1)", "down", id="blind.down"),
        Binding("up,k", "scroll(-1)", "up", id="blind.up"),
        Binding("pagedown,space", "scroll(8)", "a page down", id="blind.page-down"),
        Binding("pageup", "scroll(-8)", "a page up", id="blind.page-up"),
    ]

    def verbs(self) -> Sequence[Verb]:
        quit_ = Verb("q", "quit", "app.quit", "leave; what runs goes on")
        others = [Verb("o", "other", "other", "another evaluation")] if len(self._finished) > 1 else []
        match self._state:
            case "vote":
                back = [Verb("u", "undo", "undo", "take the last vote back")] if self._session and self._session.votes else []
                return [
                    Verb("a", "A", "vote_a", "the left answer"),
                    Verb("s", "same", "vote_same", "no difference that matters"),
                    Verb("d", "B", "vote_b", "the right answer"),
                    *back,
                    Verb("p", "question", "prompt", "everything that was asked"),
                    *others,
                    quit_,
                ]
            case "end":
                return [
                    Verb("enter", "open", "enter", "break the seal: who is who, and the result"),
                    Verb("u", "undo", "undo", "take the last vote back"),
                    *others,
                    quit_,
                ]
            case "result":
                export = Verb("e", "export", "export", "write the votes as preference pairs")
                return [export, *self._other_arms(), *others, quit_]
        if self._contest is None:
            return [*others, quit_]
        word = "begin" if self._contest.known is None else "result" if self._contest.known.opened else "go on"
        return [Verb("enter", word, "enter", "open the session"), *self._other_arms(), *others, quit_]

    def _other_arms(self) -> list[Verb]:
        several = self._contest is not None and len(self._contest.arms) > 2
        return [Verb("m", "arms", "arms", "compare two other arms")] if several else []

    def action_enter(self) -> None:
        if self._session is None and self._contest:
            self._begin(self._contest)
        elif self._session and self._state == "end":
            self._open_seal(self._session)

    def _begin(self, contest: Contest) -> None:
        """Open the session; a new one asks for its number of pairs first, which stays fixed."""
        if contest.known is not None:
            self._enter(contest, 0)
            return
        self.fetch(partial(contests.differing, contest), partial(self._ask_pairs, contest))

    def _ask_pairs(self, contest: Contest, there: int) -> None:
        from mlxtune.evaluation.power import detectable_preference

        if not there:
            self.desk.reply(
                Answer("·", "$muted", f"{contest.first} and {contest.second} give the same answers: there is nothing to choose.")
            )
            return
        usual = min(40, there)
        counts = sorted({*(count for count in _STEPS if count <= there), there}, key=lambda count: (count != usual, count))
        choices = []
        for count in counts:
            least = detectable_preference(count)
            shows = f"shows a preference of {100 * least:.0f} % or more" if least else "too few to show a preference"
            choices.append(Choice(str(count), plural(count, "pair"), shows))
        text = "The number is fixed before the first vote. Some pairs will come twice, to see whether you agree with yourself."
        self.app.push_screen(Choose("How many pairs?", text, choices), lambda n: self._enter(contest, int(n)) if n else None)

    def _enter(self, contest: Contest, n: int) -> None:
        self.fetch(partial(contests.enter, contest, n), self._entered)

    def _entered(self, found: tuple[Session, Result | None]) -> None:
        self._leave()
        self._session, self._result = found
        self._first_row = 0
        self.show()
        self.call_after_refresh(self.show)  # how much of an answer fits is known once the sides are there
        self.refresh_bindings()

    def _leave(self) -> None:
        """Let go of the session; its votes are on disk."""
        if self._session:
            self._session.__exit__(None, None, None)
        self._session = self._result = self._looking = None

    def on_unmount(self) -> None:
        self._leave()

    def action_vote_a(self) -> None:
        self._vote("a")

    def action_vote_same(self) -> None:
        self._vote("tie")

    def action_vote_b(self) -> None:
        self._vote("b")

    def _vote(self, vote: str) -> None:
        session, now = self._session, time.monotonic()
        before = session.now() if session else None
        if session is None or before is None or now - self._voted < _BOUNCE:
            return
        self._voted = now
        if self._safely(lambda: session.vote(cast("Vote", vote))):
            after = session.now()
            if after is None or after.at != before.at:
                self._first_row = 0
            self._news()

    def action_undo(self) -> None:
        session = self._session
        if session and self._safely(session.undo):
            self._first_row = 0
            self._news()

    def _safely(self, act: Callable[[], object]) -> bool:
        """Do what writes a vote; a full disk is a sentence."""
        try:
            act()
        except MlxtuneError as error:
            self.desk.reply(sorry(error))
            return False
        return True

    def _news(self) -> None:
        self.desk.reply(None)
        self.refresh_bindings()

    def _open_seal(self, session: Session) -> None:
        def opened(result: Result) -> None:
            self._result = result
            self.show()
            self.refresh_bindings()

        self.fetch(session.reveal, opened)

    def action_scroll(self, by: int) -> None:
        session = self._session
        now = session.now() if session else None
        if now is None:
            return
        seals = [(self.query_one(f"#bl-{name}", Draw), text) for name, text in (("a", now.a), ("b", now.b))]
        most = max(len(pictures.side_rows(text, seal.content_size.width)) - seal.content_size.height for seal, text in seals)
        self._first_row = max(0, min(self._first_row + by, most))
        self.show()

    def action_prompt(self) -> None:
        session = self._session
        now = session.now() if session else None
        if now is None:
            return
        prompt = now.prompt

        def rows(width: int) -> Sequence[tuple[Part, ...]]:
            out: list[tuple[Part, ...]] = []
            for message in prompt:
                out.append(((f"  {one_line(message.role)}", "bold $muted"),))
                out += [(f"  {row}",) for row in wrap(safe_text(message.content).expandtabs(4), width - 4)]
                out.append((Content(""),))
            return out

        self.app.push_screen(Page("Asked", rows))

    def action_arms(self) -> None:
        contest = self._contest
        view = self._wanted()
        if contest is None or view is None:
            return
        choices = [Choice(str(at), f"{one_line(first)} or {one_line(second)}") for at, (first, second) in enumerate(contest.others)]

        def chosen(at: str | None) -> None:
            if at:
                self._leave()
                self._contest = None
                self._look(view, contest.others[int(at)])

        self.app.push_screen(Choose("Which two arms?", "", choices), chosen)

    def action_other(self) -> None:
        def chosen(view: RunView) -> None:
            self._leave()
            self._chosen, self._contest = view.id, None
            self.show()

        asks.choose_report(self.desk, "Which evaluation?", self._finished, chosen)

    def action_export(self) -> None:
        from mlxtune.evaluation.ballot import QUESTIONS

        session, result = self._session, self._result
        if session is None or result is None:
            return
        order = sorted(result.tallies, key=lambda tally: tally.question != "send")
        choices = [
            Choice(tally.question, QUESTIONS[tally.question], plural(tally.wins + tally.losses, "decided vote"))
            for tally in order
        ]  # fmt: skip
        text = "They are held-out rows: what trains on them cannot be tested on them. The ledger keeps note."
        self.app.push_screen(
            Choose("Whose votes become pairs?", text, choices),
            lambda question: self._export(session, question) if question else None,
        )

    def _export(self, session: Session, question: str) -> None:
        path = _free(self.desk.workspace / "data" / f"{session.evaluation.name}-{question}.jsonl")

        def job() -> Answer | None:
            from mlxtune.evaluation.voted import export

            count = export(session, path, question)
            where = one_line(path.relative_to(self.desk.workspace).as_posix())
            return Answer(
                "✓",
                "$success",
                f"{plural(count, 'preference pair')} in {where}.",
                "They are held-out rows: train on them only what is tested elsewhere.",
            )

        self.desk.do("", job)


def _free(path: Path) -> Path:
    """``path``, or the first of its kind that is not there yet: nothing is overwritten."""
    at, found = 2, path
    while found.exists():
        found = path.with_name(f"{path.stem}-{at}{path.suffix}")
        at += 1
    return found
