"""Advice: should this be fine-tuned at all? The interview on the left, what the rules and the workspace say beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import plural
from mlxtune.tui import advices
from mlxtune.tui.advices import Interview, Line
from mlxtune.tui.draw import Part
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.page import Page
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RecipeView, Snapshot
from mlxtune.tui.widgets import advice_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Verb, sorry
from mlxtune.tui.widgets.pane import ListPane
from mlxtune.tui.widgets.section import Section

if TYPE_CHECKING:
    from mlxtune.advice.evidence import Evidence
    from mlxtune.advice.verdict import Advice as Advised


class Advice(Room):
    """The cursor stands on a question or on what it may be answered with; the verdict follows every answer."""

    ROOM = "adVice"
    ABOUT = "whether to fine-tune at all, from answers and what was measured"
    CSS_PATH = "advice.tcss"
    VERBS = frozenset({"measure", "reasons", "other"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "choose", "choose", id="advice.choose"),
        Binding("m", "measure", "measure", id="advice.measure"),
        Binding("t", "table", "RAG or fine-tuning", id="advice.table"),
        Binding("w", "reasons", "why", id="advice.reasons"),
        Binding("o", "other", "other recipe", id="advice.other"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._interview: Interview | None = None
        self._left: Mapping[str, Any] = {}  # answers of an interview that was left half done
        self._evidence: Evidence | None = None
        self._error: MlxtuneError | None = None
        self._about: object = None  # what the evidence is of

    def remember(self) -> Mapping[str, Any]:
        half = self._interview is not None and self._interview.missing
        return {"given": dict(self._interview.given)} if half and self._interview else {}

    def recall(self, left: Mapping[str, Any]) -> None:
        self._left = dict(left.get("given", {}))

    def body(self) -> ComposeResult:
        with Horizontal(id="advice-columns"):
            yield Section(
                "Interview",
                ListPane(id="advice-questions", eager=True, about="The questions, and what each may be answered with. enter or space chooses what the cursor stands on, or takes it back; on a question it goes on to what may be chosen, on one for a number it asks for it."),
                id="advice-interview",
            )  # fmt: skip
            with Vertical(id="advice-side"):
                yield Section("Advice", Draw(id="advice-picture"), id="advice-verdict")
                yield Section("Why", Draw(id="advice-reasons"), classes="fill", id="advice-why")

    def draw(self, snapshot: Snapshot) -> None:
        if self._interview is None:
            self._interview = Interview.of(self.desk.workspace, self._left)
        view = self.desk.recipe
        self._gather(view, snapshot)
        interview, advised = self._interview, self._advised
        found, missing = interview.lines(), interview.missing
        pane = self.query_one("#advice-questions", ListPane)
        pane.set(len(found), lambda at, width: pictures.interview_row(found[at], width))
        note = f"{plural(len(missing), 'question')} left" if missing else "all answered"
        self.query_one("#advice-interview", Section).head.set(note=note)
        error, sample, busy = self._error, advices.sampling(snapshot.evals, view), snapshot.live is not None
        head = self.query_one("#advice-verdict", Section).head
        head.set(note=pictures.about(self._evidence, self.wide))
        self.query_one("#advice-picture", Draw).show(
            lambda width, _height: pictures.verdict(advised, self._evidence, missing, error, sample, busy, width)
        )
        self.query_one("#advice-why").display = advised is not None and self.wide
        if advised:
            self.query_one("#advice-reasons", Draw).show(
                lambda width, height: pictures.cut(pictures.reasons(advised, width), height)
            )

    @property
    def _advised(self) -> Advised | None:
        return self._interview.verdict(self._evidence) if self._interview and self._evidence is not None else None

    def _gather(self, view: RecipeView | None, snapshot: Snapshot) -> None:
        """Ask what the workspace knows, when the recipe, its source's place or what was measured has changed."""
        from mlxtune.advice.evidence import Evidence

        measured = tuple(one.id for one in snapshot.evals if one.status == "finished")
        about = (view.path, view.recipe, view.source_there, measured) if view else None
        if about == self._about and self._evidence is not None:
            return
        changed, self._about = about != self._about, about
        if view is None or view.recipe is None:
            self._evidence = Evidence()
        elif changed:
            self._fetch_evidence(view.path, view)

    def _fetch_evidence(self, path: Path, view: RecipeView) -> None:
        recipe, workspace = view.recipe, self.desk.workspace
        assert recipe is not None
        self.fetch(lambda: advices.gather(workspace, recipe, path), self._gathered, self._unknown)

    def _gathered(self, found: Evidence) -> None:
        self._evidence, self._error = found, None
        self.show()
        self.refresh_bindings()

    def _unknown(self, error: MlxtuneError) -> None:
        from mlxtune.advice.evidence import Evidence

        self._evidence, self._error = Evidence(), error
        self.show()

    # Verbs

    def verbs(self) -> Sequence[Verb]:
        verbs = [Verb("enter", "choose", "choose", "answer with what the cursor stands on")]
        if self._advised is not None:
            verbs.append(Verb("w", "why", "reasons", "the whole advice: reasons, what does not go together, what would change it"))
        verbs.append(Verb("t", "table", "table", "RAG or fine-tuning: nine questions"))
        snapshot, view = self.desk.snapshot, self.desk.recipe
        if view and view.recipe and snapshot and snapshot.live is None and not self.desk.busy:
            verbs.append(Verb("m", "measure", "measure", "measure the base, your prompt and a few examples on 30 held-out rows"))
        if snapshot and len(snapshot.recipes) > 1:
            verbs.append(Verb("o", "other", "other", "another recipe"))
        return [*verbs, Verb("q", "quit", "app.quit", "leave; what runs goes on")]

    def on_list_pane_moved(self, event: ListPane.Moved) -> None:
        event.stop()

    def on_list_pane_chosen(self, event: ListPane.Chosen) -> None:
        event.stop()
        self.action_choose()

    def action_choose(self) -> None:
        """Answer with what the cursor stands on."""
        if self._interview is None:
            return
        found = self._interview.lines()
        at = self.query_one("#advice-questions", ListPane).cursor
        one = found[at]
        if one.option:
            self._take(self._interview.choose(one.question, one.option))
        elif one.question.kind == "number":
            self._ask(one)
        else:
            self.query_one("#advice-questions", ListPane).go(at + 1)

    def _ask(self, one: Line) -> None:
        question, interview = one.question, self._interview

        def answered(text: str | None) -> None:
            if text and interview:
                self._take(interview.say(question, text))

        self.app.push_screen(Ask(question.ask, "", one.text, wrong=lambda text: advices.wrong(question, text)), answered)

    def _take(self, interview: Interview) -> None:
        self._interview = interview
        if not interview.missing:
            try:
                interview.keep(self.desk.workspace)
            except MlxtuneError as error:
                self.desk.reply(sorry(error))
            else:
                self.desk.action_settle()
        self.show()
        self.refresh_bindings()

    def action_measure(self) -> None:
        view, workspace = self.desk.recipe, self.desk.workspace
        if view is None or view.recipe is None:
            return
        recipe = view.recipe

        def job() -> None:
            advices.sample(workspace, recipe)  # the room tells how it goes, as long as it goes

        self.desk.do("Starting to measure.", job)

    def action_reasons(self) -> None:
        def rows(width: int) -> Sequence[tuple[Part, ...]]:
            return pictures.whole(advised, self._evidence, width) if (advised := self._advised) else []

        self.app.push_screen(Page("Advice", rows))

    def action_table(self) -> None:
        def rows(width: int) -> Sequence[tuple[Part, ...]]:
            return pictures.table(self._advised, width)

        self.app.push_screen(Page("RAG or fine-tuning", rows))

    def action_other(self) -> None:
        self.desk.choose_recipe()
