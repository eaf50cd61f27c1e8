"""The Advice room's service: the interview's answers, the workspace's evidence, and a small evaluation to add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.advice import interview, verdict
from mlxtune.advice.evidence import AdviceEvidence
from mlxtune.advice.next_step import is_sample, sample_name
from mlxtune.advice.rules import InterviewQuestion, rules
from mlxtune.advice.verdict import Advice
from mlxtune.core.errors import InputError
from mlxtune.workspace.index import RecipeView, RunView

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
        """Return each question followed by its options."""
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
            return self._with(question, option)
        current = self.answers.get(question.key)
        if option == NONE_OPTION:
            return self._with(question, None if current == [] else [])
        return self._with(question, sorted({*(current or ())} ^ {option}) or None)

    def enter(self, question: InterviewQuestion, text: str) -> Interview:
        """Return the interview with the number in ``text`` as the answer."""
        return self._with(question, interview.parse_number(text))

    def _with(self, question: InterviewQuestion, value: object) -> Interview:
        return Interview({**self.answers, question.key: value})

    @property
    def missing(self) -> list[InterviewQuestion]:
        return [question for question in rules().questions if self.answers.get(question.key) is None]

    def advice(self, facts: AdviceEvidence) -> Advice | None:
        """Return the advice, or ``None`` while questions are unanswered."""
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


def current_sample(evals: Sequence[RunView], view: RecipeView | None) -> RunView | None:
    """Return the recipe's newest evaluation if it is a small one to measure with, and it is running or failed."""
    name = view.recipe.name if view and view.recipe else ""
    newest = next((run for run in evals if _recipe_name(run) in (name, sample_name(name))), None)
    if newest and is_sample(_recipe_name(newest)) and (newest.alive or newest.status in ("crashed", "failed")):
        return newest
    return None


def _recipe_name(view: RunView) -> str:
    """Return the recipe's name, even for an evaluation that ended before its first event."""
    return view.state.name or view.id.split("-", 2)[-1]
