"""The next step and the workflow progress, computed by pure functions of a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlxtune.advice.sample_name import is_sample
from mlxtune.core.text import duration, one_line, plural
from mlxtune.data.check_cache import CheckOutcome
from mlxtune.present.check import check_warning
from mlxtune.present.labels import word
from mlxtune.present.run import STATUS_LABELS, answering_text
from mlxtune.tui.render.text import gigabytes
from mlxtune.tui.status import PLAN_GLYPHS, stop_effect, time_left, verdict_style
from mlxtune.workspace.index import RecipeView, RunView, Snapshot, recipe_summary

if TYPE_CHECKING:
    from mlxtune.evaluation.history import Evaluation
    from mlxtune.evaluation.report import Rate
    from mlxtune.planning.plan import Plan
    from mlxtune.recipe import Recipe


@dataclass(frozen=True)
class Shortcut:
    """A key, its description, and its action."""

    key: str
    about: str
    action: str


@dataclass(frozen=True)
class NextStep:
    """The next step, the reason for it, and its key: the label in the footer, a description, and the action.

    ``shortcuts`` are alternatives.
    """

    sentence: str
    why: str
    key: str = ""
    label: str = ""
    about: str = ""
    action: str = ""
    glyph: str = ""
    token: str = ""
    shortcuts: tuple[Shortcut, ...] = ()


@dataclass(frozen=True)
class WorkflowStage:
    """A stage of the workflow: its glyph and color token, name, details, result, and room."""

    glyph: str
    token: str
    name: str
    detail: str
    result: str = ""
    room: str = ""

    @property
    def waiting(self) -> bool:
        return self.glyph == "○"


def _open(room: str) -> str:
    return f"app.room('{room}')"


_GOOD_ENOUGH = 0.95  # the share of answers that advice asks for by default
_WATCH = ("T", "watch", "watch the run", _open("train"))
_OPEN_RUN = ("T", "open", "open the run", _open("train"))


def of_recipe(snapshot: Snapshot, view: RecipeView) -> Snapshot:
    """Return ``snapshot`` with only the runs, the evaluations, and the verdicts of the recipe ``view``, which comes first."""
    name = view.recipe.name if view.recipe else ""
    verdicts = tuple(verdict for verdict in snapshot.verdicts if verdict.name == name)
    return replace(
        snapshot,
        recipes=(view, *(other for other in snapshot.recipes if other is not view)),
        runs=tuple(run for run in snapshot.runs if run.name == name),
        evals=tuple(run for run in snapshot.evals if run.name == name),
        verdicts=verdicts,
        blind_status=snapshot.blind_status if snapshot.newest_comparison in verdicts else None,
    )


def next_step(snapshot: Snapshot, open_file: str = "") -> NextStep:
    """Return the one thing to do now. ``open_file`` is the name of a file that is open without a recipe."""
    live = snapshot.live
    if live and live.run.kind == "eval":
        watch = ("E", "watch", "watch it", _open("evaluate"))
        return NextStep("Let the evaluation finish.", _evaluation_progress(live), *watch)
    if live and live.run.kind == "search":
        why = f"Trial {live.state.trial} is training." if live.state.trial else "It is loading the model."
        return NextStep("Let the search finish.", f"{why} The adapter it selects is evaluated at the end.", *_WATCH)
    if live and live.run.kind == "generate":
        one = live.state.answering
        why = f"The teacher has answered {one.done:,} of {plural(one.total, 'question')}." if one else "It is loading the model."
        return NextStep(
            "Let the teacher finish.",
            f"{why} Its rows are used only after you accept them.",
            "R",
            "review",
            "review rows",
            _open("review"),
        )
    if live and live.run.kind == "export":
        why = f"{answering_text(live.state) or 'Loading the model'}. It is kept unless it undoes the tuning."
        return NextStep("Let the export finish.", why, "A", "adapters", "open the adapters", _open("adapters"))
    if live:
        return _while_training(live, snapshot)
    if open_file:
        return NextStep(
            f"Write a recipe for {open_file}.",
            "Training needs one: the model, the rows, and the settings. The first version is guessed from the rows.",
            "c",
            "new recipe",
            "write the recipe",
            "screen.new_recipe",
            shortcuts=(Shortcut("D", "see the rows", _open("data")),),
        )
    if snapshot.runs:
        return _after_run(snapshot.runs[0], snapshot)
    if snapshot.recipes:
        return _before_first_run(snapshot)
    folder = one_line(snapshot.workspace.name) or "this folder"
    return NextStep(
        "Start with the sample workspace.",
        "A support desk for an outdoor shop: a recipe, its rows, and the contract that answers must meet. "
        f"The files are created in recipes/ and data/ in {folder}.",
        "enter",
        "create it",
        "create the sample workspace here",
        "screen.samples",
        shortcuts=(
            Shortcut("o", "open a file of your own", "screen.open_file"),
            Shortcut("V", "check first whether fine-tuning is what you need", _open("advice")),
        ),
    )


def _while_training(view: RunView, snapshot: Snapshot) -> NextStep:
    if view.status == "starting":
        return NextStep("The run is starting.", "Loading the model.", *_WATCH)
    if view.status == "waiting":
        why = "training.wait_for pauses the run while this machine is on battery power."
        return NextStep("Connect this machine to power.", why, *_OPEN_RUN, "‖", "$warning")
    if view.status == "cooling":
        why = "training.wait_for pauses the run while this machine is under heavy thermal pressure."
        return NextStep("Let this machine cool down.", why, *_OPEN_RUN, "‖", "$warning")
    if view.status == "quiet":
        sentence = f"The run has been quiet for {duration(snapshot.now - view.updated)}."
        return NextStep(sentence, "Its process is alive but has not written any events.", *_OPEN_RUN, "!", "$warning")
    items = [item for item in snapshot.recipes if item.last_check and _is_recipe_of(item, view)]
    undecided = sum(max(0, item.last_check.rows - item.reviewed_rows) for item in items if item.last_check)
    review = Shortcut("R", f"meanwhile, review {plural(undecided, 'row')}", _open("review"))
    why = f"{_validation_trend(view)} {stop_effect(view)}".strip()
    return NextStep("Let the run finish, then evaluate it.", why, *_WATCH, shortcuts=(review,) if undecided else ())


def _is_recipe_of(item: RecipeView, view: RunView) -> bool:
    return item.recipe is not None and item.recipe.name == view.name


def _after_run(view: RunView, snapshot: Snapshot) -> NextStep:
    """Return the next step after the newest run, depending on how it ended."""
    step, saved = f"{view.state.step:,}", view.checkpoint
    checkpoint = f"Checkpoint {saved:,} is intact." if saved is not None else "No checkpoint was saved."
    resume = ("T", "open", "open it to resume", _open("train"))
    open_run = resume if view.can_resume else _OPEN_RUN
    match view.status:
        case "crashed":
            return NextStep(f"The run crashed at step {step}.", checkpoint, *open_run, "✗", "$error")
        case "failed":
            return NextStep(view.state.error or "The run failed.", view.state.hint or checkpoint, *open_run, "✗", "$error")
        case "stopped":
            return NextStep(f"The run was stopped at step {step} of {view.state.total:,}.", checkpoint, *open_run)
    if verdict := snapshot.verdict_on(view.id):
        # imported here because the first screen must not wait for them; now they are loaded
        from mlxtune.evaluation.follow_up import train_longer, what_to_evaluate
        from mlxtune.evaluation.render.wording import caveat_text, follow_up_text, verdict_text

        further = what_to_evaluate(verdict.report, verdict.run.folder)
        remedy, sentence = follow_up_text([further] if further else []), one_line(verdict_text(verdict.report.verdict))
        caveat = f"Not recommended: {caveat_text(verdict.caveat)}." if verdict.caveat else ""
        change = f"{remedy} Or change" if remedy else "Change"
        more = train_longer(view.state.epochs, verdict.outcome)
        longer = follow_up_text([more] if more else [])
        retry = f"{change} one setting in the recipe and train again, or search for better ones: h in Train."
        why = " ".join(filter(None, (caveat, longer, retry)))
        recipe = next((item for item in snapshot.recipes if _is_recipe_of(item, view)), None)
        if recipe and (doubt := check_warning(recipe.last_check)) and verdict.outcome != "better":
            look = ("D", "check", "look at the rows", _open("data"))
            others = (Shortcut("P", "change a setting", _open("plan")), *_after_verdict(verdict, snapshot.best))
            return NextStep(
                sentence,
                f"{doubt} {why}",
                *look,
                *verdict_style(verdict.outcome, verdict.caveat),
                others,
            )
        change_it = ("P", "plan", "change a setting", _open("plan"))
        others = (Shortcut("n", "train again", "screen.new"), *_after_verdict(verdict, snapshot.best))
        return NextStep(sentence, why, *change_it, *verdict_style(verdict.outcome, verdict.caveat), others)
    failed = _failed_evaluation(snapshot.evals)
    if failed and failed.updated > view.updated:  # the adapter's evaluation may need another one first, of the base
        again = ("E", "evaluate", "choose what to evaluate", _open("evaluate"))
        return NextStep(*_without_verdict(failed), *again, "✗", "$error")
    why = "The base model and the adapter will answer the same held-out rows."
    return NextStep("Training is done. Check whether it helped.", why, "enter", "evaluate", "evaluate it", "screen.evaluate")


def _failed_evaluation(evals: Sequence[RunView]) -> RunView | None:
    """Return the newest evaluation if it failed."""
    return next((view for view in evals[:1] if view.status in ("failed", "crashed")), None)


def _without_verdict(view: RunView) -> tuple[str, str]:
    reason = f"{view.state.error} {view.state.hint}".strip()
    return "The evaluation ended without a verdict.", reason or f"Its process crashed. See evals/{view.title}/worker.log"


def _base_measured(view: RunView) -> bool:
    """Return whether the base has answered every row in an evaluation."""
    return view.status == "finished" or any(arm == "base" and done >= rows for arm, (done, rows) in view.state.arms.items())


def _after_verdict(verdict: Evaluation, best: Evaluation | None) -> tuple[Shortcut, ...]:
    """Return the actions that a verdict suggests in addition to another run."""
    rows = Shortcut("E", "see the rows behind it", _open("evaluate"))
    if verdict.outcome == "better":
        adapter = "the best adapter" if best and best.run_id != verdict.run_id else "it"  # Chat offers the best
        return rows, Shortcut("C", f"chat with {adapter}", _open("chat")), Shortcut("A", "export it", _open("adapters"))
    return (rows, Shortcut("B", "compare blind", _open("blind"))) if verdict.outcome == "cannot_tell" else (rows,)


def _before_first_run(snapshot: Snapshot) -> NextStep:
    """Return the next step before the first run: check the rows, measure the base model, then train."""
    valid = [view for view in snapshot.startable if view.recipe]
    if not valid:
        view = snapshot.startable[0]
        why = f"{view.error} {view.hint}".strip()
        return NextStep(f"recipes/{view.title} is invalid.", why, "n", "check", "read it again", "screen.new", "✗", "$error")
    view = valid[0]
    assert view.recipe is not None
    train = Shortcut("n", "train now", "screen.new")
    if view.source_exists and (view.last_check is None or _is_unknown(view.last_check)):
        why = f"The model would also learn any mistakes in {view.source}."
        return NextStep("Check the rows first.", why, "D", "check", "check the rows", _open("data"), shortcuts=(train,))
    if view.last_check and view.last_check.outcome == "blocked":
        why = "The Data room lists them and shows how to fix them."
        return NextStep(check_warning(view.last_check), why, "D", "fix", "fix them", _open("data"), "✗", "$error")
    evals = [view for view in snapshot.evals if not is_sample(view.name)]
    if view.source_exists and not any(map(_base_measured, evals)):
        if failed := _failed_evaluation(evals):
            again = ("E", "evaluate", "evaluate the base again", _open("evaluate"))
            return NextStep(*_without_verdict(failed), *again, "✗", "$error", shortcuts=(train,))
        why = "Only then can a verdict say whether training helped."
        evaluate = ("E", "evaluate", "evaluate it", _open("evaluate"))
        return NextStep("Evaluate the base model first.", why, *evaluate, shortcuts=(train,))
    plan = (Shortcut("P", "estimate its cost", _open("plan")),)
    if (verdict := snapshot.verdict) and verdict.changes and verdict.changes[-1][1].share >= _GOOD_ENOUGH:
        rate = f"{100 * verdict.changes[-1][1].share:.1f}%"
        why = f"{verdict.subject.name} reaches {rate} without training: {_label(verdict.changes[-1][1])}."
        ask = ("V", "advice", "ask whether training is needed", _open("advice"))
        return NextStep("Training may not be needed.", why, *ask, shortcuts=(train, *plan))
    startable, total = len(snapshot.startable), len(snapshot.recipes)
    if startable > 1:
        why = f"{startable} of {total} recipes can start now." if startable < total else f"{plural(total, 'recipe')} in recipes/."
        return NextStep("Start the first run.", why, "n", "new", "choose a recipe", "screen.new", shortcuts=plan)
    why = f"{recipe_summary(view.recipe)}, on {view.source}."
    return NextStep(f"Train {view.recipe.name}.", why, "n", "train", "start the run", "screen.new", shortcuts=plan)


def _is_unknown(check: CheckOutcome) -> bool:
    """Return whether a check may find other rows that block training: the recipe has changed, or the review since some did."""
    return check.changed == "recipe" or (bool(check.changed) and check.outcome == "blocked")


def _validation_trend(view: RunView) -> str:
    if len(view.state.validations) < 2:
        return ""
    before, last = (item.loss for item in view.state.validations[-2:])
    if not (before == before and last == last):
        return "Validation loss is not a number."
    trend = "is still falling" if last < before else "has stopped falling"
    return f"Validation loss {trend} ({last:.2f}, was {before:.2f})."


def _evaluation_progress(view: RunView) -> str:
    return f"{answering_text(view.state) or 'Loading the model'}."


def workflow(snapshot: Snapshot, planned: tuple[Recipe, Plan] | None = None) -> list[WorkflowStage]:
    """Return the stages of the workflow and their state in the workspace. ``planned`` is the last recipe with a plan, and the plan."""
    newest = snapshot.runs[0] if snapshot.runs else None
    valid = [view for view in snapshot.startable if view.recipe]
    view = next((view for view in valid if newest and _is_recipe_of(view, newest)), next(iter(valid), None))
    return [
        _data_stage(snapshot, view),
        *([_review_stage(view.reviewed_rows, view.last_check.rows)] if view and view.last_check else []),
        _plan_stage(newest, planned[1] if planned and view and view.recipe == planned[0] else None),
        _baseline_stage(snapshot),
        _train_stage(snapshot, newest),
        _evaluate_stage(snapshot),
        _blind_stage(snapshot),
        _adapter_stage(snapshot),
    ]


def _data_stage(snapshot: Snapshot, view: RecipeView | None) -> WorkflowStage:
    rows = next((run.rows for run in snapshot.runs if run.rows and (view is None or _is_recipe_of(view, run))), None)
    check = view.last_check if view else None
    glyph, token, result = "✓", "$success", ""
    if view and check and check.changed:  # since then, the counts of the run and of the check may have changed
        detail = f"{plural(check.rows, 'row')} in {view.source}"
        return WorkflowStage("◐", "$primary", "Data", detail, f"{check.changed} changed since the check", "data")
    if check:
        glyph, token, result = {
            "clean": ("✓", "$success", "no problems"),
            "look": ("✓", "$success", f"ready, {check.flagged:,} to look at" if check.flagged else "ready"),
            "blocked": ("✗", "$error", f"{check.flagged:,} to fix"),
        }.get(check.outcome, (glyph, token, result))
    if rows:
        train, valid, test = rows
        detail = f"last run: {train:,} train, {valid:,} validation, {test:,} held out"
        return WorkflowStage(glyph, token, "Data", detail, result or plural(train + valid + test, "row"), "data")
    if view is None:
        return WorkflowStage("○", "$faint", "Data", "no recipe yet", room="data")
    if not view.source_exists:
        return WorkflowStage("✗", "$error", "Data", f"{view.source} does not exist", room="data")
    if check:
        return WorkflowStage(glyph, token, "Data", f"{plural(check.rows, 'row')} in {view.source}", result, "data")
    return WorkflowStage("◐", "$primary", "Data", view.source, "not checked yet", "data")


def _review_stage(reviewed: int, rows: int) -> WorkflowStage:
    """Return the number of rows with a decision. Rows without one are also used for training."""
    if not reviewed:
        return WorkflowStage("○", "$faint", "Review", "optional: undecided rows are used, too", room="review")
    done = reviewed >= rows
    detail = f"{reviewed:,} decided" if done else f"{reviewed:,} decided, {rows - reviewed:,} to go"
    result = f"{100 * min(reviewed / max(rows, 1), 1):.0f}%"
    return WorkflowStage("✓" if done else "◐", "$success" if done else "$primary", "Review", detail, result, "review")


def _plan_stage(newest: RunView | None, plan: Plan | None) -> WorkflowStage:
    if plan:
        glyph, token = PLAN_GLYPHS[plan.outcome]
        detail = f"{plural(plan.steps, 'step')} in {plural(plan.epochs, 'epoch')}"
        return WorkflowStage(glyph, token, "Plan", detail, f"{gigabytes(plan.memory)} of {gigabytes(plan.limit)} GB", "plan")
    if newest is None or not newest.state.total:
        return WorkflowStage("○", "$faint", "Plan", "optional: estimates memory and time", room="plan")
    state = newest.state
    detail = plural(state.total, "step") + (f" in {plural(state.epochs, 'epoch')}" if state.epochs else "")
    if not state.peak or not state.limit:
        return WorkflowStage("◐", "$primary", "Plan", detail, room="plan")
    fits = state.peak <= state.limit
    peak = f"peak {state.peak / 2**30:.1f} of {state.limit / 2**30:.1f} GB"
    return WorkflowStage("✓" if fits else "!", "$success" if fits else "$warning", "Plan", detail, peak, "plan")


def _baseline_stage(snapshot: Snapshot) -> WorkflowStage:
    started = [view for view in snapshot.evals if view.state.arms and not is_sample(view.name)]
    view = next((view for view in started if _base_measured(view)), next(iter(started), None))
    base = view.state.arms.get("base") if view else None
    if view is None or base is None:
        return WorkflowStage("○", "$faint", "Baseline", "measured by the first evaluation", room="evaluate")
    done, rows = base
    if done < rows:
        detail = f"{done:,} of {plural(rows, 'held-out row')} answered"
        return WorkflowStage("●" if view.alive else "◐", "$primary", "Baseline", detail, room="evaluate")
    result = _baseline(snapshot.verdict) if snapshot.verdict else ""
    return WorkflowStage("✓", "$success", "Baseline", f"{plural(rows, 'held-out row')} answered", result, "evaluate")


def _label(rate: Rate) -> str:
    from mlxtune.evaluation.scorers.registry import metric_label  # its imports would slow down the first screen

    return metric_label(rate.metric)


def _baseline(verdict: Evaluation) -> str:
    rate = verdict.report.arms[0].rates[-1]
    return f"{rate.share * 100:.1f}% {_label(rate)}"


def _train_stage(snapshot: Snapshot, newest: RunView | None) -> WorkflowStage:
    if newest is None:
        return WorkflowStage("○", "$faint", "Train", "no runs yet", room="train")
    sign, state = STATUS_LABELS[newest.status], newest.state
    detail = f"step {state.step:,} of {state.total:,}" if state.total else newest.name
    left = time_left(newest, snapshot.now)
    result = sign.text
    if newest.status == "finished":
        detail += f", adapter from {state.earlier_adapter_step:,}" if state.earlier_adapter_step else ""
        result = f"validation {state.validations[-1].loss:.2f}" if state.validations else ""
    elif left is not None and newest.status == "running":
        result = f"{duration(left)} left"
    return WorkflowStage(sign.glyph, f"${sign.style}", "Train", detail, result, "train")


def _evaluate_stage(snapshot: Snapshot) -> WorkflowStage:
    view, verdict = snapshot.evals[0] if snapshot.evals else None, snapshot.newest_outcome or snapshot.verdict
    if view and view.alive:
        return WorkflowStage("●", "$primary", "Evaluate", _evaluation_progress(view).rstrip("."), room="evaluate")
    if verdict and verdict.outcome:
        return WorkflowStage(
            *verdict_style(verdict.outcome, verdict.caveat), "Evaluate", verdict.name, word(verdict.outcome), "evaluate"
        )
    if view and view.status == "finished" and verdict:
        return WorkflowStage(*verdict_style(verdict.outcome, verdict.caveat), "Evaluate", verdict.name, "only the base", "evaluate")
    if view:
        sign = STATUS_LABELS[view.status]
        return WorkflowStage(sign.glyph, f"${sign.style}", "Evaluate", view.state.error or view.name, sign.text, "evaluate")
    return WorkflowStage("○", "$faint", "Evaluate", "no evaluations yet", room="evaluate")


def _blind_stage(snapshot: Snapshot) -> WorkflowStage:
    """Return the progress of the blind session of the newest evaluation of two arms. It is optional and does not affect the verdict."""
    if status := snapshot.blind_status:
        done = status.votes >= status.votes_needed
        detail = f"{status.votes:,} of {plural(status.votes_needed, 'vote')} on {plural(status.pairs, 'pair')}"
        result = "revealed" if status.opened else "ready to reveal" if done else "in progress"
        opened = ("✓", "$success") if status.opened else ("◐", "$primary")
        return WorkflowStage(*opened, "Blind", detail, result, "blind")
    detail = "optional: compare two arms blind" if snapshot.newest_comparison else "needs an evaluated adapter"
    return WorkflowStage("○", "$faint", "Blind", detail, room="blind")


def _adapter_stage(snapshot: Snapshot) -> WorkflowStage:
    """Return the adapter that is proven better than its base and has the highest contract rate."""
    best = snapshot.best
    name = snapshot.adapter_names.get(best.run_id, best.name) if best else ""
    if best and best.caveat:
        from mlxtune.evaluation.render.wording import caveat_text

        return WorkflowStage("!", "$warning", "Adapter", f"{name} is better, but {caveat_text(best.caveat)}", room="adapters")
    if best:
        rate = f"{best.changes[-1][1].share * 100:.1f}%"
        return WorkflowStage("✓", "$success", "Adapter", f"{name}, whole contract", rate, "adapters")
    finished = sum(view.status == "finished" for view in snapshot.runs)
    detail = f"{plural(finished, 'adapter')}, none proven better yet" if finished else "none yet"
    return WorkflowStage("○", "$faint", "Adapter", detail, room="adapters")
