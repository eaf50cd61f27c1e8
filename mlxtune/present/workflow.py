"""The stages of the workflow and their state in a workspace, and its best adapter."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from mlxtune.advice.next_step import base_measured, is_recipe_of, is_sample
from mlxtune.core.text import duration, one_line, plural
from mlxtune.present.blocks import Bar, Bars, Block, Document, Style, text
from mlxtune.present.labels import percent, verdict_mark, word
from mlxtune.present.run import answering_text
from mlxtune.present.words import WORDS
from mlxtune.runs.state import earlier_adapter_step
from mlxtune.workspace.index import RecipeView, RunView, Snapshot

if TYPE_CHECKING:
    from mlxtune.evaluation.history import Evaluation
    from mlxtune.evaluation.report import Rate
    from mlxtune.planning.plan import Plan, PlannedRecipe
    from mlxtune.recipe import Recipe

StageState = Literal["waiting", "partly", "running", "done", "undecided", "warning", "failed"]
_RUN_STATES: dict[str, StageState] = {
    "finished": "done", "stopped": "partly", "failed": "failed", "crashed": "failed", "quiet": "warning",
}  # fmt: skip
_PLAN_STATES: dict[str, StageState] = {"go": "done", "warn": "warning", "refuse": "failed"}
_VERDICT_STATES: dict[str, StageState] = {"better": "done", "worse": "failed", "": "partly"}  # of any other outcome: undecided


class WorkflowStage(NamedTuple):
    name: str
    room: str
    state: StageState
    detail: str = ""
    result: str = ""


def workflow(snapshot: Snapshot, planned: PlannedRecipe | None = None, stopping: Collection[str] = ()) -> list[WorkflowStage]:
    """Return the stages in order. ``planned`` is the last plan; the runs ``stopping`` were asked to stop."""
    newest = snapshot.runs[0] if snapshot.runs else None
    valid = [view for view in snapshot.startable if view.recipe]
    view = next((view for view in valid if newest and is_recipe_of(view, newest)), next(iter(valid), None))
    plan = planned.plan if planned and view and view.recipe == planned.recipe else None
    return [
        _data(snapshot, view), *_review(view), _plan(newest, plan), _baseline(snapshot), _train(newest, snapshot.now, stopping),
        _evaluate(snapshot), _blind(snapshot), _adapter(snapshot),
    ]  # fmt: skip


def _data(snapshot: Snapshot, view: RecipeView | None) -> WorkflowStage:
    rows = next((run.rows for run in snapshot.runs if run.rows and (view is None or is_recipe_of(view, run))), None)
    check = view.last_check if view else None
    state: StageState = "done"
    result = ""
    if view and check and check.changed:  # since then, the counts of the run and of the check may have changed
        return WorkflowStage("Data", "data", "partly", plural(check.rows, "row"), f"{check.changed} changed since the check")
    if check:
        state = "failed" if check.outcome == "blocked" else "done"
        result = {"blocked": f"{check.flagged:,} to fix", "clean": "no problems"}.get(
            check.outcome, f"{check.flagged:,} to look at" if check.flagged else "ready"
        )
    if rows:
        train, valid, test = rows
        return WorkflowStage("Data", "data", state, f"{train:,} train, {valid:,} validation, {test:,} held out", result)
    if view is None:
        return WorkflowStage("Data", "data", "waiting", "no recipe yet")
    if not view.source_exists:
        return WorkflowStage("Data", "data", "failed", f"{view.source} does not exist")
    if check:
        return WorkflowStage("Data", "data", state, plural(check.rows, "row"), result)
    return WorkflowStage("Data", "data", "partly", view.source, "not checked yet")


def _review(view: RecipeView | None) -> Iterator[WorkflowStage]:
    """Yield the number of rows with a decision. Rows without one are also used for training."""
    if view and view.last_check:
        reviewed, rows = view.reviewed_rows, view.last_check.rows
        state: StageState = "waiting" if not reviewed else "done" if reviewed >= rows else "partly"
        result = f"{100 * min(reviewed / max(rows, 1), 1):.0f}%" if reviewed else ""
        yield WorkflowStage("Review", "review", state, f"{max(rows - reviewed, 0):,} undecided" if reviewed else "optional", result)


def _plan(newest: RunView | None, plan: Plan | None) -> WorkflowStage:
    if plan:
        memory = f"{plan.memory / 2**30:.1f} of {plan.limit / 2**30:.1f} GB"
        return WorkflowStage("Plan", "plan", _PLAN_STATES[plan.outcome], plural(plan.steps, "step"), memory)
    if newest is None or not newest.state.total:
        return WorkflowStage("Plan", "plan", "waiting", "optional")
    run = newest.state
    if not run.peak or not run.limit:
        return WorkflowStage("Plan", "plan", "partly", plural(run.total, "step"))
    peak = f"peak {run.peak / 2**30:.1f} of {run.limit / 2**30:.1f} GB"
    return WorkflowStage("Plan", "plan", "done" if run.peak <= run.limit else "warning", plural(run.total, "step"), peak)


def _baseline(snapshot: Snapshot) -> WorkflowStage:
    started = [view for view in snapshot.evals if "base" in view.state.arms and not is_sample(view.name)]
    view = next((view for view in started if base_measured(view)), next(iter(started), None))
    if view is None:
        return WorkflowStage("Baseline", "evaluate", "waiting", "not measured yet")
    done, rows = view.state.arms["base"]
    if done < rows:
        return WorkflowStage("Baseline", "evaluate", "running" if view.alive else "partly", f"{done:,} of {plural(rows, 'row')}")
    result = ""
    if snapshot.verdict:
        from mlxtune.evaluation.scorers.registry import metric_label  # the report was read, so this is loaded

        rate = snapshot.verdict.report.arms[0].rates[-1]
        result = f"{percent(rate.share)} {metric_label(rate.metric)}"
    return WorkflowStage("Baseline", "evaluate", "done", plural(rows, "held-out row"), result)


def _train(newest: RunView | None, now: float, stopping: Collection[str]) -> WorkflowStage:
    if newest is None:
        return WorkflowStage("Train", "train", "waiting", "no runs yet")
    run, status = newest.state, newest.status
    detail = f"step {run.step:,} of {run.total:,}" if run.total else newest.name
    result = WORDS.statuses[status].text
    if status == "finished":
        step = earlier_adapter_step(run.summary)
        detail += f", adapter from {step:,}" if step else ""
        result = f"validation {run.validations[-1].loss:.2f}" if run.validations else ""
    elif newest.alive and newest.id in stopping:
        result = "stopping"
    elif status == "running" and (left := newest.time_left(now)) is not None:
        result = f"{duration(left)} left"
    return WorkflowStage("Train", "train", _RUN_STATES.get(status, "running"), detail, result)


def _evaluate(snapshot: Snapshot) -> WorkflowStage:
    view, verdict = snapshot.evals[0] if snapshot.evals else None, snapshot.newest_outcome or snapshot.verdict
    if view and view.alive:
        return WorkflowStage("Evaluate", "evaluate", "running", answering_text(view.state) or "loading the model")
    if verdict and (verdict.outcome or (view and view.status == "finished")):
        state = "warning" if verdict.caveat else _VERDICT_STATES.get(verdict.outcome, "undecided")
        return WorkflowStage("Evaluate", "evaluate", state, one_line(verdict.name), word(verdict.outcome) or "only the base")
    if view:
        state = _RUN_STATES.get(view.status, "running")
        return WorkflowStage("Evaluate", "evaluate", state, view.state.error or view.name, WORDS.statuses[view.status].text)
    return WorkflowStage("Evaluate", "evaluate", "waiting", "no evaluations yet")


def _blind(snapshot: Snapshot) -> WorkflowStage:
    """Return the progress of the blind session of the newest evaluation of two arms. It is optional and does not affect the verdict."""
    if status := snapshot.blind_status:
        result = "revealed" if status.opened else "ready to reveal" if status.votes >= status.votes_needed else "in progress"
        detail = f"{status.votes:,} of {plural(status.votes_needed, 'vote')}"
        return WorkflowStage("Blind", "blind", "done" if status.opened else "partly", detail, result)
    return WorkflowStage("Blind", "blind", "waiting", "optional" if snapshot.newest_comparison else "needs an evaluated adapter")


def _adapter(snapshot: Snapshot) -> WorkflowStage:
    """Return the adapter that is proven better than its base and has the highest contract rate."""
    if best := snapshot.best:
        name = one_line(snapshot.adapter_names.get(best.run_id, best.run_id or best.name))
        rate = percent(best.changes[-1][1].share)
        return WorkflowStage("Adapter", "adapters", "warning" if best.caveat else "done", name, rate)
    finished = sum(view.status == "finished" for view in snapshot.runs)
    detail = f"{plural(finished, 'adapter')}, none proven better yet" if finished else "none yet"
    return WorkflowStage("Adapter", "adapters", "waiting", detail)


def best_document(best: Evaluation, newest: Evaluation | None, names: Mapping[str, str]) -> Document:
    """Return an adapter's rates next to its rival's, and the newest verdict if it is about another one.

    ``names`` has the names of renamed adapters.
    """
    from mlxtune.evaluation.scorers.registry import metric_label
    from mlxtune.present.verdict import caveat_text  # the report was read, so these are loaded

    blocks: list[Block] = [text(names.get(best.run_id, best.run_id or best.name), "bold")]
    report = best.report
    for before, after in key_metrics(best.changes):
        rates: tuple[tuple[str, Rate, Style], ...] = ((report.rival.name, before, "muted"), (report.subject.name, after, "primary"))
        bars = tuple(Bar(arm, percent(rate.share), 0.0, rate.share, style=style) for arm, rate, style in rates)
        blocks += [text(metric_label(after.metric), "muted"), Bars(bars)]
    note = f", but not recommended: {caveat_text(best.caveat)}" if best.caveat else f" on {best.rows:,} rows"
    blocks.append(text(f"{word(best.outcome).capitalize()}{note}", mark=verdict_mark(best.outcome, best.caveat)))
    if newest and newest.run_id != best.run_id:
        caveat = ", but not recommended" if newest.caveat else ""
        mark = verdict_mark(newest.outcome, newest.caveat)
        name = names.get(newest.run_id, newest.run_id or newest.name)
        blocks.append(text(f"newest: {name}, {word(newest.outcome)}{caveat}", "muted", mark))
    return tuple(blocks)


def key_metrics(changes: Sequence[tuple[Rate, Rate]]) -> list[tuple[Rate, Rate]]:
    """Return the metric of the contract that changed most, unless none did or it has the same rates, and the whole contract."""
    *parts, contract = changes
    same = tuple(rate.share for rate in contract)
    changed = [(before, after) for before, after in parts if before.share != after.share and (before.share, after.share) != same]
    return [*sorted(changed, key=lambda change: -abs(change[1].share - change[0].share))[:1], contract]


def brief_result(view: RunView) -> str:
    state = view.state
    if view.alive and state.total:
        return f"{state.step:,}/{state.total:,}"
    if not view.alive and (step := view.nan_step) is not None:
        return f"NaN at {step:,}"
    if view.status == "finished" and state.validations:
        return f"{state.validations[-1].loss:.3f}"
    return WORDS.statuses[view.status].text


def recipe_summary(recipe: Recipe) -> str:
    training = recipe.training
    length = [plural(training.steps, "step")] if training.steps else [plural(training.epochs, "epoch")] if training.epochs else []
    return ", ".join((one_line(recipe.model.base), f"rank {recipe.adapter.rank}", *length))
