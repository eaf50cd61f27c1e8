"""The words, the app's action, and the command for each next step."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlxtune.advice.next_step import NextStep, StepCode
from mlxtune.core.text import duration, one_line, plural
from mlxtune.present.blocks import ActionBlock, Document, Fact, Facts, Mark
from mlxtune.present.labels import change_text, percent, verdict_mark, word
from mlxtune.present.run import answering_text
from mlxtune.workspace.control import StopEffect
from mlxtune.workspace.index import Snapshot

if TYPE_CHECKING:
    from mlxtune.evaluation.history import Evaluation


class _Words(NamedTuple):
    title: str  # what to do, with the step's arguments in braces
    action: str  # the ID of the app's action
    label: str  # what the action does, beside its key
    command: str = ""
    mark: Mark = ""


_C = StepCode
_WORDS: dict[StepCode, _Words] = {
    _C.WATCH_TRAINING: _Words("Let the run finish, then evaluate it", "app.train", "watch the run", "mlxtune runs attach {run}"),
    _C.WATCH_EVALUATION: _Words("Let the evaluation finish", "app.evaluate", "watch it", "mlxtune runs attach {run}"),
    _C.WATCH_SEARCH: _Words("Let the search finish", "app.train", "watch the run", "mlxtune runs attach {run}"),
    _C.WATCH_GENERATION: _Words("Let the teacher finish", "app.review", "review rows", "mlxtune runs attach {run}"),
    _C.WATCH_EXPORT: _Words("Let the export finish", "app.adapters", "show the adapters", "mlxtune runs attach {run}"),
    _C.CONNECT_POWER: _Words("Connect this machine to power", "app.train", "show the run", mark="warning"),
    _C.COOL_DOWN: _Words("Let this machine cool down", "app.train", "show the run", mark="warning"),
    _C.INSPECT_QUIET_RUN: _Words("The run has been quiet for {time}", "app.train", "show the run", mark="warning"),
    _C.CREATE_SAMPLES: _Words("Start with the sample workspace", "home.samples", "create it", "mlxtune init"),
    _C.OPEN_FILE: _Words("Open a file of your own", "home.open", "open a file of your own", "mlxtune init --from FILE"),
    _C.WRITE_RECIPE: _Words("Write a recipe for {name}", "home.new_recipe", "write the recipe", "mlxtune init --from {name}"),
    _C.FIX_RECIPE: _Words("{file} is invalid", "home.new", "read it again", mark="error"),
    _C.CHECK_ROWS: _Words("Check the rows first", "app.data", "check the rows", "mlxtune data check {recipe}"),
    _C.FIX_ROWS: _Words("Fix {rows} first", "app.data", "fix them", "mlxtune data check {recipe}", "error"),
    _C.REVIEW_ROWS: _Words("Review {rows}", "app.review", "meanwhile, review {rows}", "mlxtune review {recipe}"),
    _C.MAP_COLUMNS: _Words("Name the columns", "app.data", "see the rows", "mlxtune data check {name}"),
    _C.APPLY_FIXES: _Words("Apply the fixes", "app.data", "see the rows", "mlxtune data check {name}"),
    _C.EVALUATE_BASE: _Words("Evaluate the base model first", "app.evaluate", "evaluate it", "mlxtune eval {recipe}"),
    _C.REPEAT_EVALUATION: _Words("The evaluation ended without a verdict", "app.evaluate", "choose what to evaluate", mark="error"),
    _C.ASK_ADVICE: _Words("Training may not be needed", "app.advice", "ask whether to train", "mlxtune advise {recipe}"),
    _C.ESTIMATE_COST: _Words("Estimate its cost", "app.plan", "estimate its cost", "mlxtune plan {recipe}"),
    _C.TRAIN: _Words("Train {file}", "home.new", "train now", "mlxtune train {recipe}"),
    _C.CHOOSE_RECIPE: _Words("Start the first run: {number:,.0f} recipes are ready", "home.new", "choose a recipe"),
    _C.RESUME_RUN: _Words("Resume the run, which ended at step {number:,.0f}", "app.train", "show it", "mlxtune runs resume {run}"),
    _C.INSPECT_RUN: _Words("The run failed at step {number:,.0f}", "app.train", "show it", "mlxtune runs show {run}", "error"),
    _C.EVALUATE_ADAPTER: _Words("Evaluate the adapter", "home.evaluate", "evaluate it", "mlxtune eval {run}"),
    _C.READ_WIDER_EVALUATION: _Words("Read the evaluation of {number:,.0f} more rows", "app.evaluate", "see it",
        "mlxtune runs show {run}"),
    _C.TRAIN_LONGER: _Words("Train longer: the run used {percent} of the rows (training.steps)", "app.plan", "train longer",
        "mlxtune plan {recipe}"),
    _C.RAISE_ANSWER_LIMIT: _Words("Allow longer answers: {number:,.0f} of {name} were cut off", "app.plan",
        "raise evaluation.max_tokens", "mlxtune eval {run} --set evaluation.max_tokens=N"),
    _C.EVALUATE_EXAMPLES: _Words("Compare with examples in the prompt, too", "app.evaluate", "evaluate examples in the prompt",
        """mlxtune eval {run} --set 'evaluation.arms=["base", "base+kshot", "tuned"]'"""),
    _C.EVALUATE_MORE_ROWS: _Words("Evaluate more than {rows} (evaluation.rows)", "app.evaluate", "evaluate all rows",
        "mlxtune eval {run} --set evaluation.rows=0"),
    _C.ADD_ROWS: _Words("Hold out more than {rows} (data.holdout), or add rows", "app.data", "see the rows"),
    _C.USE_ADAPTER: _Words("Chat with the adapter", "app.chat", "chat with it", "mlxtune chat {run}"),
    _C.EXPORT: _Words("Export the adapter", "app.adapters", "export it", "mlxtune export mlx {run}"),
    _C.READ_ROWS: _Words("Read the rows behind it", "app.evaluate", "see its rows", "mlxtune open evaluate {run}"),
    _C.COMPARE_BLIND: _Words("Compare the answers blind", "app.blind", "compare blind", "mlxtune blind {run}"),
    _C.CHANGE_SETTING: _Words("Change one setting and train again", "app.plan", "change a setting", "mlxtune plan {recipe}"),
    _C.SEARCH: _Words("Search for better settings", "app.train", "search settings", "mlxtune search {recipe}"),
    _C.TRAIN_AGAIN: _Words("Train again", "home.new", "train again", "mlxtune train {recipe}"),
    _C.DEFINE_METRIC: _Words("Define a good answer under [evaluation]", "app.plan", "edit the recipe", "mlxtune advise {recipe}"),
    _C.MEASURE: _Words("Measure the base, your prompt, and examples", "advice.measure", "measure", "mlxtune advise {recipe} --measure"),
    _C.MEASURE_METRIC: _Words("Measure {name}, or choose another metric", "app.evaluate", "evaluate it", "mlxtune eval {recipe}"),
    _C.WRITE_PROMPT: _Words("Write your best prompt (evaluation.prompt)", "advice.measure", "measure it",
        "mlxtune advise {recipe} --measure"),
    _C.ADD_PROMPTS: _Words("Write rows with new prompts", "app.data", "see the rows", "mlxtune data check {recipe}"),
    _C.EVALUATE_LARGER_BASE: _Words("Evaluate a larger base first", "app.evaluate", "evaluate it",
        "mlxtune eval {recipe} --set model.base=ID"),
    _C.SET_UP_RETRIEVAL: _Words("Add retrieved passages to the prompts", "app.advice", "see the reasons",
        "mlxtune score OUTPUTS.jsonl --recipe {recipe}"),
    _C.RETRIEVE_THEN_TRAIN: _Words("Set up retrieval, then train on prompts with passages", "app.train", "train",
        "mlxtune train {recipe}"),
}  # fmt: skip


def step_title(step: NextStep) -> str:
    return _format(_WORDS[step.code].title, step)


def step_action(step: NextStep) -> ActionBlock:
    """Return the step's action in the app and its command."""
    words = _WORDS[step.code]
    values = {"run": step.run, "recipe": step.recipe, "name": step.name}
    complete = all(value for name, value in values.items() if f"{{{name}}}" in words.command)
    command = f"{_format(words.command, replace(step, name=shlex.quote(step.name)))} {step.options}".rstrip()
    return ActionBlock(words.action, _format(words.label, step), command if complete else "")


def step_mark(step: NextStep, snapshot: Snapshot) -> Mark:
    """Return the mark of a step: that of the verdict that it follows, if any."""
    verdict = _verdict(step, snapshot)
    return verdict_mark(verdict.outcome, verdict.caveat) if verdict else _WORDS[step.code].mark


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


def stop_text(effect: StopEffect) -> str:
    """Return what a stopped run leaves behind."""
    return {
        StopEffect.CHECKPOINT: "a checkpoint is saved",
        StopEffect.TRIAL_CHECKPOINT: "the current trial is saved",
        StopEffect.ANSWERS: "its answers are kept",
        StopEffect.NOTHING: "nothing is saved",
    }[effect]


def _format(text: str, step: NextStep) -> str:
    recipe = step.recipe
    return text.format(
        run=shlex.quote(step.run), name=one_line(step.name), number=step.number, rows=plural(round(step.number), "row"),
        percent=f"{step.number:.0%}", time=duration(step.number), file=one_line(recipe.name) if recipe else "",
        recipe=shlex.quote(str(recipe.relative_to(Path.cwd()) if recipe.is_relative_to(Path.cwd()) else recipe)) if recipe else "RECIPE",
    )  # fmt: skip


def _verdict(step: NextStep, snapshot: Snapshot) -> Evaluation | None:
    return next((one for one in snapshot.verdicts if one.run.id == step.evaluation), None)
