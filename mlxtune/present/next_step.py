"""The words, the app's action, and the command for each next step."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.advice.next_step import NextStep, StepCode
from mlxtune.core.text import duration, one_line, plural
from mlxtune.present.blocks import ActionBlock, Document, Fact, Facts, Mark
from mlxtune.present.labels import change_text, percent, verdict_mark, word
from mlxtune.present.run import answering_text
from mlxtune.present.words import WORDS
from mlxtune.workspace.index import Snapshot

if TYPE_CHECKING:
    from mlxtune.evaluation.history import Evaluation


_C = StepCode


def step_title(step: NextStep) -> str:
    return _format(WORDS.steps[step.code.name].title, step)


def step_action(step: NextStep) -> ActionBlock:
    words = WORDS.steps[step.code.name]
    values = {"run": step.run, "recipe": step.recipe, "name": step.name}
    complete = all(value for name, value in values.items() if f"{{{name}}}" in words.command)
    command = f"{_format(words.command, replace(step, name=shlex.quote(step.name)))} {step.options}".rstrip()
    return ActionBlock(words.action, _format(words.label, step), command if complete else "")


def step_mark(step: NextStep, snapshot: Snapshot) -> Mark:
    """Return the mark of a step: that of the verdict that it follows, if any."""
    verdict = _verdict(step, snapshot)
    return verdict_mark(verdict.outcome, verdict.caveat) if verdict else WORDS.steps[step.code.name].mark


def step_why(step: NextStep, snapshot: Snapshot) -> str:
    """Return the reason for a step, or how far what is running has come, in a few words."""
    views = (*snapshot.runs, *snapshot.evals, *snapshot.searches, *snapshot.generations, *snapshot.exports)
    view = next((one for one in views if one.id == step.run), None)
    match step.code:
        case _C.WATCH_TRAINING if view and len(view.state.validations) > 1:
            before, last = (item.loss for item in view.state.validations[-2:])
            known = before == before and last == last
            return f"validation loss {before:.2f} → {last:.2f}" if known else "validation loss is not a number"
        case _C.WATCH_SEARCH if view:
            return f"trial {view.state.trial}" if view.state.trial else "loading the model"
        case _C.WATCH_EVALUATION | _C.WATCH_GENERATION | _C.WATCH_EXPORT if view:
            return answering_text(view.state) or "loading the model"
        case _C.FIX_RECIPE:
            item = next(item for item in snapshot.recipes if item.path == step.recipe)
            return f"{item.error} {item.hint}".strip()
        case _C.CHECK_ROWS:
            item = next((item for item in snapshot.recipes if item.path == step.recipe), snapshot.recipes[0])
            return item.source
        case _C.REPEAT_EVALUATION | _C.INSPECT_RUN | _C.RESUME_RUN if view:
            saved = f"checkpoint {view.checkpoint:,} is intact" if view.checkpoint is not None else "no checkpoint was saved"
            return f"{view.state.error} {view.state.hint}".strip() or (
                f"see {view.title}/worker.log" if view.run.kind == "eval" else saved
            )
        case _C.ASK_ADVICE if step.name:
            return f"{one_line(step.name)}: {percent(step.number)} without training"
        case _C.CONNECT_POWER | _C.COOL_DOWN:
            return "training.wait_for pauses the run"
    if verdict := _verdict(step, snapshot):
        headline = verdict.report.headline
        change = f" {change_text(headline.low, headline.change, headline.high)} points" if headline else ""
        from mlxtune.present.verdict import caveat_text  # the report was read, so this is loaded

        caveat = f"; not recommended: {caveat_text(verdict.caveat)}" if verdict.caveat else ""
        return f"{word(verdict.outcome)}{change}{caveat}"
    return ""


def next_step_document(step: NextStep) -> Document:
    return (Facts((Fact("next", step_title(step), action=replace(step_action(step), label="")),)),)


def _format(text: str, step: NextStep) -> str:
    recipe = step.recipe
    return text.format(
        run=shlex.quote(step.run), name=one_line(step.name), number=step.number, rows=plural(round(step.number), "row"),
        percent=f"{step.number:.0%}", time=duration(step.number), file=one_line(recipe.name) if recipe else "",
        recipe=shlex.quote(str(recipe.relative_to(Path.cwd()) if recipe.is_relative_to(Path.cwd()) else recipe)) if recipe else "RECIPE",
    )  # fmt: skip


def _verdict(step: NextStep, snapshot: Snapshot) -> Evaluation | None:
    return next((one for one in snapshot.verdicts if one.run.id == step.evaluation), None)
