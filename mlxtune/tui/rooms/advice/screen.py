"""Advice: whether to fine-tune at all. The interview is on the left, the advice and its reasons on the right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content

from mlxtune.advice import interview, verdict
from mlxtune.advice.evidence import AdviceEvidence, collect, sample_recipe
from mlxtune.advice.next_step import is_sample
from mlxtune.advice.rules import InterviewQuestion, rules
from mlxtune.advice.verdict import Advice
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.present.advice import advice_document, brief_reasons, measured_blocks, tradeoffs_document, verdict_block
from mlxtune.present.next_step import next_step_document
from mlxtune.tui import draw
from mlxtune.tui.actions import Action
from mlxtune.tui.render.text import cell, cut_rows, error_rows, key, line, lines, marked, paragraph
from mlxtune.tui.room import NO_RECIPE, OTHER_RECIPE, Room
from mlxtune.tui.widgets import ListPanel, PageScreen, Panel, Section
from mlxtune.workspace import control
from mlxtune.workspace.index import RecipeView, Snapshot

NONE_OPTION = "none"  # the multiple-choice option that means an empty selection


@dataclass(frozen=True)
class InterviewLine:
    """One line of the interview: a question, or one of its options."""

    question: InterviewQuestion
    option: str = ""
    selected: bool = False  # or answered
    text: str = ""


@dataclass(frozen=True)
class Interview:
    """The answers so far, by question key."""

    answers: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, workspace: Path, partial: Mapping[str, Any]) -> Interview:
        """Return the workspace's saved answers, or the ``partial`` answers of an unfinished interview."""
        saved = interview.load_last(workspace)
        if saved is not None and not partial:
            return cls(interview.answers_json(saved))
        questions = {question.key: question for question in rules().questions}
        defaults = {key: question.default for key, question in questions.items() if question.default is not None}
        valid = {key: value for key, value in partial.items() if key in questions and _is_valid(questions[key], value)}
        return cls(defaults | valid)

    def lines(self) -> list[InterviewLine]:
        rows: list[InterviewLine] = []
        for question in rules().questions:
            value = self.answers.get(question.key)
            figure = f"{value:,.10g}" if question.kind == "number" and isinstance(value, int | float) else ""
            figure = f"{figure or value} by default" if value is not None and value == question.default else figure
            rows.append(InterviewLine(question, "", value is not None, figure))
            for name, meaning in question.options.items():
                selected = name in value if isinstance(value, list) else value == name
                rows.append(InterviewLine(question, name, selected, meaning))
            if question.kind == "some":
                rows.append(InterviewLine(question, NONE_OPTION, value == [], "none of these"))
        return rows

    def choose(self, question: InterviewQuestion, option: str) -> Interview:
        """Return the interview with ``option`` selected, or toggled if the question is multiple choice.

        Deselecting the last option leaves the question unanswered.
        """
        if question.kind != "some":
            return self.answer(question, option)
        current = self.answers.get(question.key)
        if option == NONE_OPTION:
            return self.answer(question, None if current == [] else [])
        return self.answer(question, sorted({*(current or ())} ^ {option}) or None)

    def answer(self, question: InterviewQuestion, value: object) -> Interview:
        return Interview({**self.answers, question.key: value})

    @property
    def missing(self) -> list[InterviewQuestion]:
        return [question for question in rules().questions if self.answers.get(question.key) is None]

    def advice(self, facts: AdviceEvidence) -> Advice | None:
        return None if self.missing else verdict.give_advice(interview.parse_answers(self.answers), facts)

    def save(self, workspace: Path) -> None:
        """Save complete answers where ``mlxtune advise`` finds them. Raise ``MachineError`` if the disk is full."""
        if not self.missing:
            interview.save_answers(workspace, interview.parse_answers(self.answers))


def check_number(question: InterviewQuestion, text: str) -> None:
    """Raise ``InputError`` if ``text`` is not a valid answer to a question that asks for a number."""
    if (value := interview.parse_number(text)) is None:
        raise InputError("Enter a number.")
    interview.parse_answer(question, value)


def _is_valid(question: InterviewQuestion, value: Any) -> bool:
    try:
        interview.parse_answer(question, value)
    except InputError:
        return False
    return True


class AdviceRoom(Room):
    """An interview with the cursor on a question or an option. The advice is updated after every answer."""

    ABOUT = "whether to fine-tune at all"
    CSS_PATH = "style.tcss"
    SIDE = "#advice-side"
    ACTIONS = (
        Action("choose", "space", "choose", "select the option"),
        Action("reasons", "g", "why", "all reasons", when="advice",
               command="advise {recipe}"),
        Action("table", "v", "table", "RAG or fine-tuning"),
        Action("measure", ".", "measure", "measure the base", when="can_measure",
               why=NO_RECIPE, needs_accelerator=True, command="advise {recipe} --measure"),
        OTHER_RECIPE,
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._interview: Interview | None = None
        self._partial: Mapping[str, Any] = {}  # answers of an interview that was not finished
        self._evidence: AdviceEvidence | None = None
        self._error: MlxtuneError | None = None
        self._inputs: object = None  # the facts that the evidence was gathered for

    def save_state(self) -> Mapping[str, Any]:
        return {"given": dict(self._interview.answers)} if self._interview and self._interview.missing else {}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        self._partial = dict(state.get("given", {}))

    def compose_body(self) -> ComposeResult:
        with Horizontal(id="advice-columns"):
            yield Section("Interview", ListPanel(id="advice-questions", eager=True), classes="fill", id="advice-interview")
            with Vertical(id="advice-side"):
                yield Section("Advice", Panel(id="advice-picture"), id="advice-verdict")
                yield Section("Why", Panel(id="advice-reasons"), classes="fill", id="advice-why")

    def draw(self, snapshot: Snapshot) -> None:
        if self._interview is None:
            self._interview = Interview.load(self.app.workspace, self._partial)
        view = self.app.selection.recipe
        self._update_evidence(view, snapshot)
        items, missing = self._interview.lines(), self._interview.missing
        questions = self.query_one("#advice-questions", ListPanel)
        head = self.section("#advice-interview").head

        def draw_position(index: int) -> None:
            keys = [question.key for question in rules().questions]
            position = f"question {keys.index(items[index].question.key) + 1} of {len(keys)}"
            head.set(note=f"{position}, {f'{len(missing)} left' if missing else 'all answered'}")

        questions.set(len(items), lambda index, width: interview_row(items[index], width), on_move=draw_position)
        draw_position(questions.cursor)
        advice, evidence, error = self.advice, self._evidence, self._error

        def summary(width: int, _height: int) -> Content:
            rows = error_rows(error, width) if error else []
            measured = measured_blocks(evidence, advice.facts["metric"] if advice else "") if evidence else ()
            if advice and evidence:
                rows += draw.rows((verdict_block(advice, evidence), *next_step_document(advice.next)), width)
            else:
                state = f"{plural(len(missing), 'answer')} to go" if missing else "reading the rows"
                rows.append(paragraph(state, width, style="bold"))
            return lines(*rows, *self._sample_rows(width), *draw.rows(measured, width))

        self.section("#advice-verdict").show(summary, note=heading_note(evidence, self.wide))
        self.query_one("#advice-why").display = advice is not None and self.wide
        if advice:
            self.section("#advice-why").show(
                lambda width, height: cut_rows(draw.rows(brief_reasons(advice), width), height, ("g", "more", "screen.reasons"))
            )

    def _sample_rows(self, width: int) -> list[Content]:
        """Draw the state of the evaluation started from this room, or the key that starts it if nothing was measured."""
        live, evidence = self.running("eval"), self._evidence
        if live and is_sample(live.name):
            return marked("●", "$primary", "Measuring on 30 held-out rows", width)
        can_measure = evidence and evidence.rows and not evidence.arms and self.app.snapshot.live is None
        return [line("    ", key(".", "measure base, prompt and examples", "screen.measure"))] if can_measure else []

    @property
    def advice(self) -> Advice | None:
        return self._interview.advice(self._evidence) if self._interview and self._evidence is not None else None

    def _update_evidence(self, view: RecipeView | None, snapshot: Snapshot) -> None:
        """Gather the evidence again if the recipe, its data file or the finished evaluations have changed."""
        finished = tuple(run.id for run in snapshot.evals if run.status == "finished")
        inputs = (view.path, view.recipe, view.source_exists, finished) if view else None
        changed, self._inputs = inputs != self._inputs, inputs
        if view is None or view.recipe is None:
            self._evidence = AdviceEvidence()
        elif changed:
            recipe, workspace = view.recipe, self.app.workspace
            name = view.path.relative_to(workspace).as_posix() if view.path.is_relative_to(workspace) else str(view.path)
            self.run_job(
                lambda: collect(workspace, recipe, name),
                lambda evidence: self._show_evidence(evidence, None),
                lambda error: self._show_evidence(AdviceEvidence(), error),
            )

    def _show_evidence(self, evidence: AdviceEvidence, error: MlxtuneError | None) -> None:
        self._evidence, self._error = evidence, error

    @property
    def can_measure(self) -> bool:
        view = self.app.selection.recipe
        return view is not None and view.recipe is not None and self.app.runs.accelerator_free

    def action_choose(self) -> None:
        """Select the option under the cursor; on a question, ask for its number or move to its first option."""
        if self._interview is None:
            return
        questions = self.query_one("#advice-questions", ListPanel)
        item = self._interview.lines()[questions.cursor]
        if item.option:
            self._answer(self._interview.choose(item.question, item.option))
        elif item.question.kind == "number":
            current, question = self._interview, item.question
            self.app.ask(
                question.ask, "", lambda text: self._answer(current.answer(question, interview.parse_number(text))), item.text,
                check=lambda text: check_number(question, text),
            )  # fmt: skip
        else:
            questions.go(questions.cursor + 1)

    on_list_panel_chosen = action_choose

    def _answer(self, interview: Interview) -> None:
        self._interview = interview
        if not interview.missing:
            with self.app.notices.showing_errors():
                interview.save(self.app.workspace)
                self.app.notices.dismiss()
        self.redraw()

    def action_measure(self) -> None:
        view, workspace = self.app.selection.recipe, self.app.workspace
        if view and view.recipe:
            sample = sample_recipe(view.recipe)
            self.app.runs.start_worker(lambda: control.evaluate(workspace, sample), busy="Starting the measurement.")

    def action_reasons(self) -> None:
        def rows(width: int) -> list[Content]:
            advice, evidence = self.advice, self._evidence
            return draw.rows(advice_document(advice, evidence), width) if advice and evidence else []

        self.app.push_screen(PageScreen("Advice", rows))

    def action_table(self) -> None:
        self.app.push_screen(PageScreen("RAG or fine-tuning", lambda width: draw.rows(tradeoffs_document(self.advice), width)))


def interview_row(item: InterviewLine, width: int) -> Content:
    if not item.option:
        glyph = ("✓ ", "bold $success") if item.selected else ("○ ", "$muted")
        figure = line("  ", (item.text, "bold $primary")) if item.text else Content("")
        return line(glyph, cell(item.question.ask, width - 2 - figure.cell_length, "bold"), figure)
    glyph = ("●", "bold $primary") if item.selected else ("○", "$faint")
    name = cell(item.option, 11, "bold" if item.selected else "")
    return line("    ", glyph, " ", name, " ", cell(item.text, width - 18, "" if item.selected else "$muted"))


def heading_note(evidence: AdviceEvidence | None, wide: bool) -> str:
    """Return the evidence behind the advice besides the answers, for the right end of the heading."""
    if evidence is None:
        return "reading the rows"
    if not evidence.rows:
        return "based on answers alone"
    name = one_line(Path(evidence.recipe).name)
    return f"{name}, {evidence.rows:,} rows" if wide else name
