"""What Blind shows: the choice of a contest, the sealed sides, the result; its verbs are in ``blind``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Container, Vertical

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.tui import contests
from mlxtune.tui.contests import Contest
from mlxtune.tui.names import seen_from
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RunView, Snapshot
from mlxtune.tui.widgets import blind_pictures as pictures
from mlxtune.tui.widgets import evaluate_pages as pages
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.section import Section

if TYPE_CHECKING:
    from mlxtune.evaluation.ballot import Result
    from mlxtune.evaluation.blind import Session


class BlindView(Room):
    """The part of the room that shows."""

    def __init__(self) -> None:
        super().__init__()
        self._chosen: str | None = None  # the id of an evaluation
        self._contest: Contest | None = None
        self._looking: str | None = None
        self._error: MlxtuneError | None = None  # why it cannot be read which arms there are
        self._alone = False
        self._session: Session | None = None
        self._result: Result | None = None
        self._first_row = 0
        self._voted = 0.0

    def body(self) -> ComposeResult:
        yield Section("Blind", Draw(id="bl-invite"), lit=True, id="bl-choice")
        with Vertical(id="bl-vote"):
            yield Draw(id="bl-progress")
            yield Section("Asked", Draw(id="bl-prompt"), id="bl-asked")
            with Container(id="bl-pair"):
                yield Draw(id="bl-a", classes="seal")
                yield Draw(id="bl-b", classes="seal")
            yield Section("Which one?", Draw(id="bl-asks"), lit=True, id="bl-questions")
        yield Section("Sealed", Draw(id="bl-sealed"), lit=True, id="bl-end")
        with Vertical(id="bl-result"):
            yield Section("Verdict", Draw(id="bl-verdict"), lit=True, id="bl-told")
            yield Section("Votes", Draw(id="bl-votes"), id="bl-counts")
            yield Section("The reader", Draw(id="bl-facts"), id="bl-reader")

    @property
    def _finished(self) -> list[RunView]:
        snapshot = self.desk.snapshot
        return [view for view in snapshot.evals if view.status == "finished"] if snapshot else []

    def _wanted(self) -> RunView | None:
        found = self._finished
        chosen = next((view for view in found if view.id == self._chosen), None)
        recipe = self.desk.recipe.recipe if self.desk.recipe else None
        several = [view for view in found if len(view.state.arms) > 1]
        of_recipe = next((view for view in several if recipe and view.name == recipe.name), None)
        return chosen or of_recipe or next(iter((*several, *found)), None)

    def draw(self, snapshot: Snapshot) -> None:
        if self._session is None:
            view = self._wanted()
            if view is None:
                self._contest = None
            elif self._contest is None or self._contest.folder != view.run.folder:
                self._look(view)
        for state in ("choice", "vote", "end", "result"):
            self.set_class(state == self._state, f"-{state}")
        match self._state:
            case "vote":
                self._draw_vote()
            case "end":
                session = self._session
                assert session is not None
                self.query_one("#bl-sealed", Draw).show(lambda width, _height: pictures.sealed(session, width))
            case "result":
                self._draw_result()
            case _:
                self._draw_choice(snapshot)

    @property
    def _state(self) -> str:
        if self._session is None:
            return "choice"
        if self._result is not None:
            return "result"
        return "vote" if self._session.now() else "end"

    def _draw_choice(self, snapshot: Snapshot) -> None:
        contest, error = self._contest, self._error
        if error is not None:
            self.query_one("#bl-invite", Draw).show(lambda width, _height: pages.sorry(error, width))
            return
        if contest is None:
            name = "recipe" if snapshot.recipes else ""
            self.query_one("#bl-invite", Draw).show(lambda width, _height: pictures.nothing(name, self._alone, width))
            return
        title = one_line(contest.folder.name)
        self.query_one("#bl-invite", Draw).show(
            lambda width, _height: pictures.choice(title, contest.first, contest.second, contest.known, width)
        )

    def _draw_vote(self) -> None:
        from mlxtune.evaluation.ballot import QUESTIONS

        session = self._session
        now = session.now() if session else None
        if session is None or now is None:
            return
        given, first, most = session.given, self._first_row, 5 if self.tall else 2
        self.query_one("#bl-progress", Draw).show(lambda width, _height: pictures.progress(session, now, width))
        self.query_one("#bl-prompt", Draw).show(lambda width, _height: pictures.asked(now, width, most))
        for name, text in (("a", now.a), ("b", now.b)):
            seal = self.query_one(f"#bl-{name}", Draw)
            seal.show(lambda width, height, text=text: pictures.side(text, first, width, height))  # type: ignore[misc]
            rows, room = len(pictures.side_rows(text, seal.content_size.width)), seal.content_size.height
            seal.border_title = f" {name.upper()} "
            seal.border_subtitle = " ↓ more " if first + room < rows else " sealed "
        words = list(QUESTIONS.values())
        self.query_one("#bl-asks", Draw).show(lambda width, _height: pictures.questions(words, given, width))
        self.query_one("#bl-questions", Section).head.set(note=f"{len(given)} of {len(words)} answered")

    def _draw_result(self) -> None:
        from mlxtune.evaluation.ballot import QUESTIONS

        result = self._result
        if result is None:
            return
        self.query_one("#bl-verdict", Draw).show(lambda width, _height: pictures.verdict(result, width))
        self.query_one("#bl-votes", Draw).show(lambda width, _height: pictures.votes(result, QUESTIONS, width))
        self.query_one("#bl-facts", Draw).show(lambda width, _height: pictures.reader(result, width))
        self.query_one("#bl-told", Section).head.set(note=f"{plural(result.pairs, 'pair')}, read blind")
        self.query_one("#bl-counts", Section).head.set(note="sign test; side questions after Holm" if self.wide else "")

    def _look(self, view: RunView, two: tuple[str, str] | None = None) -> None:
        """Find out which arms an evaluation has, and how far their session is."""
        if self._looking == view.id and two is None:
            return
        self._looking, self._error = view.id, None
        self.fetch(partial(contests.contest, view.run.folder, two), self._found, self._broken)

    def _found(self, contest: Contest | None) -> None:
        self._contest, self._alone = contest, contest is None
        self.show()
        self.refresh_bindings()

    def _broken(self, error: MlxtuneError) -> None:
        self._contest = None
        self._error = MlxtuneError(seen_from(self.desk.workspace, one_line(error.message)), mend=error.mend)
        self.show()
