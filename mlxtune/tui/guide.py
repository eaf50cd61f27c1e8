"""What to do next, and how far the journey has come: pure functions of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass

from mlxtune.core.text import duration, one_line, plural
from mlxtune.tui.snapshot import RecipeView, RunView, Snapshot, recipe_summary
from mlxtune.tui.status import SIGNS, can_resume, checkpoint, kept, time_left


@dataclass(frozen=True)
class Advice:
    """A sentence, why, and the one key that does it: its name, a word for the footer, what it does, and its action."""

    sentence: str
    why: str
    key: str = ""
    word: str = ""
    does: str = ""
    action: str = ""
    mark: str = ""
    token: str = ""


@dataclass(frozen=True)
class Stage:
    """A step of the journey: sign, token, name, what is known of it, and its result."""

    mark: str
    token: str
    name: str
    what: str
    result: str = ""

    @property
    def waiting(self) -> bool:
        return self.mark == "○"


def next_step(snapshot: Snapshot) -> Advice:
    """The one thing to do now."""
    live = snapshot.live
    if live and live.state.kind == "eval":
        return Advice(
            "Let the evaluation finish.", _evaluating(live), "T", "look", "look at the run it measures", "app.room('train')"
        )
    if live:
        return _while_training(live, snapshot.now)
    if snapshot.runs:
        return _after(snapshot.runs[0], snapshot)
    if snapshot.recipes:
        return _first_run(snapshot)
    return Advice(
        "Start with the sample workspace.",
        "An outdoor shop's support desk: a recipe, its rows and the contract its answers must keep. "
        f"It makes recipes/ and data/ in {one_line(snapshot.workspace.name) or 'this folder'}, and nothing else.",
        "enter", "make it", "make the sample workspace here", "screen.samples",
    )  # fmt: skip


def _while_training(view: RunView, now: float) -> Advice:
    if view.status == "starting":
        return Advice("The run is starting.", "The model is being loaded.", "T", "watch", "watch it train", "app.room('train')")
    if view.status == "quiet":
        return Advice(
            f"The run has been quiet for {duration(now - view.updated)}.", "Its process is alive, but says nothing.",
            "T", "look", "look at it", "app.room('train')", "!", "$warning",
        )  # fmt: skip
    return Advice(
        "Let the run finish, then evaluate it.",
        f"{_trend(view)} {kept(view)}".strip(),
        "T",
        "watch",
        "watch it train",
        "app.room('train')",
    )


def _after(view: RunView, snapshot: Snapshot) -> Advice:
    """What follows from how the newest run ended."""
    step, saved = f"{view.state.step:,}", checkpoint(view)
    resume = f"Checkpoint {saved:,} is whole." if saved is not None else "It left no checkpoint."
    look = ("T", "look", "look at it, and resume" if can_resume(view) else "look at it", "app.room('train')")
    match view.status:
        case "crashed":
            return Advice(f"The run ended at step {step} without saying why.", resume, *look, "✗", "$error")
        case "failed":
            return Advice(view.state.error or "The run failed.", view.state.mend or resume, *look, "✗", "$error")
        case "stopped":
            return Advice(f"The run was stopped at step {step} of {view.state.total:,}.", resume, *look)
    verdict = snapshot.verdict
    if verdict and verdict.word and verdict.run == view.id:
        return Advice(
            verdict.sentence, "Change one thing in the recipe, and train again.", "n", "new", "start a new run", "screen.new",
            verdict.mark, verdict.token,
        )  # fmt: skip
    failed = snapshot.evals[0] if snapshot.evals and snapshot.evals[0].updated > view.updated else None
    if failed and failed.status in ("failed", "crashed"):
        why = (
            f"{failed.state.error} {failed.state.mend}".strip() or f"Its process is gone. Its log: evals/{failed.title}/worker.log"
        )
        return Advice(
            "The evaluation ended without a verdict.",
            why,
            "T",
            "look",
            "look at the run it measured",
            "app.room('train')",
            "✗",
            "$error",
        )
    return Advice(
        "Training is done. Measure whether it helped.",
        "The base model and the adapter answer the same held-out rows. In a terminal: mlxtune eval",
        "T", "look", "look at the curve", "app.room('train')",
    )  # fmt: skip


def _first_run(snapshot: Snapshot) -> Advice:
    good = [view for view in snapshot.startable if view.recipe]
    if not good:
        view = snapshot.startable[0]
        return Advice(
            f"recipes/{view.title} cannot be used.",
            f"{view.error} {view.mend}".strip(),
            "n",
            "check",
            "read it again",
            "screen.new",
            "✗",
            "$error",
        )
    view = good[0]
    if len(snapshot.startable) > 1:
        return Advice(
            "Start a first run.",
            f"{plural(len(snapshot.startable), 'recipe')} in recipes/.",
            "n",
            "new",
            "choose a recipe",
            "screen.new",
        )
    return Advice(f"Train {_name(view)}.", _plan(view), "n", "train", "start the run", "screen.new")


def _name(view: RecipeView) -> str:
    return view.recipe.name if view.recipe else view.title


def _plan(view: RecipeView) -> str:
    return f"{recipe_summary(view.recipe)}, on {view.source}." if view.recipe else ""


def _trend(view: RunView) -> str:
    """What validation says about going on."""
    if len(view.state.validations) < 2:
        return ""
    before, last = (item.loss for item in view.state.validations[-2:])
    if not (before == before and last == last):
        return "Validation loss is not a number."
    word = "still falls" if last < before else "has stopped falling"
    return f"Validation loss {word} ({last:.2f}, was {before:.2f})."


def _evaluating(view: RunView) -> str:
    if view.state.answering is None:
        return "The model is being loaded."
    arm, what, done, total = view.state.answering
    return f"{arm} has answered {done:,} of {plural(total, what)}."


def journey(snapshot: Snapshot) -> list[Stage]:
    """The stages that exist, each with what the workspace shows of it."""
    newest = snapshot.runs[0] if snapshot.runs else None
    return [_data(snapshot, newest), _plan_stage(newest), _baseline(snapshot), _train(snapshot, newest), _evaluate(snapshot)]


def _data(snapshot: Snapshot, newest: RunView | None) -> Stage:
    rows = next((view.rows for view in snapshot.runs if view.rows), None)
    if rows:
        train, valid, test = rows
        return Stage(
            "✓",
            "$success",
            "Data",
            f"{train:,} train, {valid:,} validation, {test:,} held out",
            plural(train + valid + test, "row"),
        )
    view = next((view for view in snapshot.startable if view.recipe), None)
    if view is None:
        return Stage("○", "$faint", "Data", "no recipe names any yet")
    if not view.source_there:
        return Stage("✗", "$error", "Data", f"{view.source} is not there")
    return Stage("◐", "$primary", "Data", view.source, "checked when a run starts")


def _plan_stage(newest: RunView | None) -> Stage:
    if newest is None or not newest.state.total:
        return Stage("○", "$faint", "Plan", "known when a run has read its data")
    state = newest.state
    what = f"{state.total:,} steps" + (f" in {plural(state.epochs, 'epoch')}" if state.epochs else "")
    if not state.peak or not state.limit:
        return Stage("◐", "$primary", "Plan", what)
    fits = state.peak <= state.limit
    peak = f"peak {state.peak / 2**30:.1f} of {state.limit / 2**30:.1f} GB"
    return Stage("✓" if fits else "!", "$success" if fits else "$warning", "Plan", what, peak)


def _baseline(snapshot: Snapshot) -> Stage:
    view = next((view for view in snapshot.evals if view.state.arms), None)
    base = next((arm for arm in view.state.arms if arm[0] == "base"), None) if view else None
    if view is None or base is None:
        return Stage("○", "$faint", "Baseline", "measured by the first evaluation")
    _, done, rows = base
    if done < rows:
        return Stage("●" if view.alive else "◐", "$primary", "Baseline", f"{done:,} of {plural(rows, 'held-out row')} answered")
    return Stage(
        "✓",
        "$success",
        "Baseline",
        f"{plural(rows, 'held-out row')} answered",
        snapshot.verdict.baseline if snapshot.verdict else "",
    )


def _train(snapshot: Snapshot, newest: RunView | None) -> Stage:
    if newest is None:
        return Stage("○", "$faint", "Train", "nothing has been trained yet")
    sign, state = SIGNS[newest.status], newest.state
    what = f"step {state.step:,} of {state.total:,}" if state.total else newest.name
    if newest.status == "finished":
        last = state.validations[-1].loss if state.validations else None
        return Stage(sign.mark, sign.token, "Train", what, f"validation {last:.2f}" if last is not None else "")
    left = time_left(newest, snapshot.now)
    return Stage(
        sign.mark,
        sign.token,
        "Train",
        what,
        f"{duration(left)} left" if left is not None and newest.status == "running" else sign.word,
    )


def _evaluate(snapshot: Snapshot) -> Stage:
    view = snapshot.evals[0] if snapshot.evals else None
    if view and view.alive:
        return Stage("●", "$primary", "Evaluate", _evaluating(view).rstrip("."))
    if snapshot.verdict and snapshot.verdict.word:
        return Stage(snapshot.verdict.mark, snapshot.verdict.token, "Evaluate", snapshot.verdict.name, snapshot.verdict.word)
    if view:
        sign = SIGNS[view.status]
        return Stage(sign.mark, sign.token, "Evaluate", view.state.error or view.name, sign.word)
    return Stage("○", "$faint", "Evaluate", "starts when you say so")
