"""What the Advice room knows: the interview as far as it is answered, and what the rules make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.advice.sample import is_sample, sample_name
from mlxtune.core.errors import InputError
from mlxtune.recipe import Recipe
from mlxtune.tui.snapshot import RecipeView, RunView

if TYPE_CHECKING:
    from mlxtune.advice.evidence import Evidence
    from mlxtune.advice.rules import Question
    from mlxtune.advice.verdict import Advice


NONE = "none"  # the option of a question that takes several by which one says that none of them is right


@dataclass(frozen=True)
class Line:
    """A line of the interview: a question, or one of its options. ``mark`` says whether it is answered, or chosen."""

    question: Question
    option: str = ""
    mark: str = ""
    text: str = ""


@dataclass(frozen=True)
class Interview:
    """Answers so far, by the key of their question."""

    given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, workspace: Path, left: Mapping[str, Any]) -> Interview:
        """What was answered here: whole answers that the workspace keeps, else what was ``left`` half done."""
        from mlxtune.advice import answers
        from mlxtune.advice.rules import rules

        kept = answers.last(workspace)
        if kept is not None and not left:
            return cls(kept.as_json())
        known = {question.key: question for question in rules().questions}
        fresh = {key: question.default for key, question in known.items() if question.default is not None}
        return cls(fresh | {key: value for key, value in left.items() if key in known and _fits(known[key], value)})

    def lines(self) -> list[Line]:
        """The interview as a form: each question, and under it what may be chosen."""
        from mlxtune.advice.rules import rules

        found: list[Line] = []
        for question in rules().questions:
            value = self.given.get(question.key)
            done = "✓" if value is not None else "○"
            figure = f"{value:,.10g}" if question.kind == "number" and isinstance(value, int | float) else ""
            found.append(Line(question, "", done, figure))
            for name, meaning in question.options.items():
                chosen = name in value if isinstance(value, list) else value == name
                found.append(Line(question, name, "●" if chosen else "○", meaning))
            if question.kind == "some":
                found.append(Line(question, NONE, "●" if value == [] else "○", "none of these"))
        return found

    def choose(self, question: Question, option: str) -> Interview:
        """With ``option`` taken, or, of several that may be, taken back where it was taken before; :data:`NONE` empties them.

        Taking the last one back leaves the question without an answer.
        """
        if question.kind != "some":
            return Interview({**self.given, question.key: option})
        before = self.given.get(question.key)
        if option == NONE:
            return Interview({**self.given, question.key: None if before == [] else []})
        return Interview({**self.given, question.key: sorted({*(before or ())} ^ {option}) or None})

    def say(self, question: Question, text: str) -> Interview:
        """With a number, written as ``text``, as the answer."""
        from mlxtune.advice import answers

        return Interview({**self.given, question.key: answers.number(text)})

    @property
    def missing(self) -> list[Question]:
        """Questions without an answer; where several may be chosen, none is an answer."""
        from mlxtune.advice.rules import rules

        return [question for question in rules().questions if self.given.get(question.key) is None]

    def verdict(self, evidence: Evidence) -> Advice | None:
        """What the rules say, once every question has its answer."""
        from mlxtune.advice import answers, verdict

        return None if self.missing else verdict.verdict(answers.check(self.given), evidence)

    def keep(self, workspace: Path) -> None:
        """Write whole answers down, where the command line finds them too. Raises ``MachineError`` when the disk is full."""
        from mlxtune.advice import answers

        if not self.missing:
            answers.keep(workspace, answers.check(self.given))


def wrong(question: Question, text: str) -> str:
    """Why ``text`` is no answer to a question for a number, in a sentence; empty if it is one."""
    from mlxtune.advice import answers

    value = answers.number(text)
    if value is None:
        return "That is no number."
    try:
        answers.one(question, value)
    except InputError as error:
        return error.mend
    return ""


def gather(workspace: Path, recipe: Recipe, path: Path) -> Evidence:
    """What the workspace knows of ``recipe``. Raises ``InputError`` for data that cannot be read."""
    from mlxtune.advice import evidence
    from mlxtune.models import catalog

    base = catalog.find(recipe.model.base)
    called = path.relative_to(workspace).as_posix() if path.is_relative_to(workspace) else str(path)
    return evidence.gather(workspace, recipe, called, base.shapes.parameters if base else None)


def sample(workspace: Path, recipe: Recipe) -> None:
    """Start measuring, on a few held-out rows, what needs no training. Raises ``InputError`` where there is nothing to measure by."""
    from mlxtune.advice.evidence import sampled
    from mlxtune.runs import launch

    launch.start(workspace, "eval", sampled(recipe))


def sampling(evals: Sequence[RunView], view: RecipeView | None) -> RunView | None:
    """The newest evaluation of a recipe, if it was asked for by :func:`sample` and is at work or broke off."""
    name = view.recipe.name if view and view.recipe else ""
    newest = next((one for one in evals if _called(one) in (name, sample_name(name))), None)
    return newest if newest and is_sample(_called(newest)) and (newest.alive or newest.status in ("crashed", "failed")) else None


def _called(view: RunView) -> str:
    """The recipe of an evaluation, also of one that ended before it said a word."""
    return view.state.name or view.id.split("-", 2)[-1]


def _fits(question: Question, value: Any) -> bool:
    from mlxtune.advice import answers

    try:
        answers.one(question, value)
    except InputError:
        return False
    return True
