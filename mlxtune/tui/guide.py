"""What to do next, and how far the journey has come: pure functions of a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mlxtune.advice.sample import is_sample
from mlxtune.core.text import duration, one_line, plural
from mlxtune.tui.snapshot import RecipeView, RunView, Snapshot, recipe_summary
from mlxtune.tui.status import SIGNS, can_resume, checkpoint, kept, time_left
from mlxtune.tui.verdict import Verdict

Rooms = Collection[str]  # the rooms that there are, by their modes


@dataclass(frozen=True)
class Way:
    """A key, what it does, and its action."""

    key: str
    does: str
    action: str


@dataclass(frozen=True)
class Advice:
    """A sentence, why, and the one key that does it: its name, a word for the footer, what it does, and its action; ``also`` beside it."""

    sentence: str
    why: str
    key: str = ""
    word: str = ""
    does: str = ""
    action: str = ""
    mark: str = ""
    token: str = ""
    also: tuple[Way, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A step of the journey: sign, token, name, what is known of it, its result, and the room that is about it."""

    mark: str
    token: str
    name: str
    what: str
    result: str = ""
    room: str = ""

    @property
    def waiting(self) -> bool:
        return self.mark == "○"


def next_step(snapshot: Snapshot, rooms: Rooms) -> Advice:
    """The one thing to do now, in one of ``rooms``."""
    live = snapshot.live
    if live and live.state.kind == "eval":
        if "evaluate" in rooms:
            return Advice("Let the evaluation finish.", _evaluating(live), "E", "watch", "watch it", _go("evaluate"))
        return Advice("Let the evaluation finish.", _evaluating(live), "T", "look", "look at the run it measures", _go("train"))
    if live:
        return _while_training(live, snapshot, rooms)
    if snapshot.runs:
        return _after(snapshot.runs[0], snapshot, rooms)
    if snapshot.recipes:
        return _first_run(snapshot, rooms)
    return Advice(
        "Start with the sample workspace.",
        "An outdoor shop's support desk: a recipe, its rows and the contract its answers must keep. "
        f"It makes recipes/ and data/ in {one_line(snapshot.workspace.name) or 'this folder'}, and nothing else.",
        "enter", "make it", "make the sample workspace here", "screen.samples",
        also=(Way("V", "ask first whether fine-tuning is what you need", _go("advice")),) if "advice" in rooms else (),
    )  # fmt: skip


def _go(room: str) -> str:
    return f"app.room('{room}')"


def _while_training(view: RunView, snapshot: Snapshot, rooms: Rooms) -> Advice:
    if view.status == "starting":
        return Advice("The run is starting.", "The model is being loaded.", "T", "watch", "watch it train", _go("train"))
    if view.status == "quiet":
        return Advice(
            f"The run has been quiet for {duration(snapshot.now - view.updated)}.", "Its process is alive, but says nothing.",
            "T", "look", "look at it", _go("train"), "!", "$warning",
        )  # fmt: skip
    left = sum(max(0, item.checked.rows - item.decided) for item in snapshot.recipes if item.checked and _is_of(item, view))
    review = Way("R", f"use the time: {plural(left, 'row waits', 'rows wait')} for a decision", _go("review"))
    return Advice(
        "Let the run finish, then evaluate it.", f"{_trend(view)} {kept(view)}".strip(), "T", "watch", "watch it train", _go("train"),
        also=(review,) if left and "review" in rooms else (),
    )  # fmt: skip


def _is_of(item: RecipeView, view: RunView) -> bool:
    return item.recipe is not None and item.recipe.name == view.name


def _after(view: RunView, snapshot: Snapshot, rooms: Rooms) -> Advice:
    """What follows from how the newest run ended."""
    step, saved = f"{view.state.step:,}", checkpoint(view)
    resume = f"Checkpoint {saved:,} is whole." if saved is not None else "It left no checkpoint."
    look = ("T", "look", "look at it, and resume" if can_resume(view) else "look at it", _go("train"))
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
            verdict.sentence, _held_back(verdict) + "Change one thing in the recipe, and train again.", "n", "new", "start a new run", "screen.new",
            verdict.mark, verdict.token, _beyond(verdict, snapshot.best, rooms),
        )  # fmt: skip
    evaluate = ("E", "evaluate", "evaluate it", _go("evaluate")) if "evaluate" in rooms else None
    failed = _failed(snapshot.evals)
    if failed and failed.updated > view.updated:
        measured = evaluate or ("T", "look", "look at the run it measured", _go("train"))
        return Advice(*_no_verdict(failed), *measured, "✗", "$error")
    why = "The base model and the adapter answer the same held-out rows."
    if evaluate is None:
        why, evaluate = f"{why} In a terminal: mlxtune eval", ("T", "look", "look at the curve", _go("train"))
    return Advice("Training is done. Measure whether it helped.", why, *evaluate)


def _held_back(verdict: Verdict) -> str:
    """Why what is better is not to be promoted, as a sentence before others; empty where it may be."""
    but = verdict.reservation
    return f"It is not to be promoted: {but}. " if but else ""


def _failed(evals: Sequence[RunView]) -> RunView | None:
    """The newest evaluation, if it broke off."""
    return next((view for view in evals[:1] if view.status in ("failed", "crashed")), None)


def _no_verdict(view: RunView) -> tuple[str, str]:
    """That an evaluation broke off, and why."""
    gone = f"Its process is gone. Its log: evals/{view.title}/worker.log"
    return "The evaluation ended without a verdict.", f"{view.state.error} {view.state.mend}".strip() or gone


def _whole_base(view: RunView) -> bool:
    """Whether the base has answered every row of an evaluation."""
    return view.status == "finished" or any(arm == "base" and done >= rows for arm, done, rows in view.state.arms)


def _beyond(verdict: Verdict, best: Verdict | None, rooms: Rooms) -> tuple[Way, ...]:
    """Where a verdict leads, beside another run."""
    ways = [("evaluate", Way("E", "see the rows behind it", _go("evaluate")))]
    if verdict.word == "better":
        who = "the best adapter" if best and best.run != verdict.run else "it"  # the room offers the best
        ways.append(("chat", Way("C", f"talk to {who}", _go("chat"))))
    elif verdict.word == "cannot tell":
        ways.append(("blind", Way("B", "compare blind", _go("blind"))))
    return tuple(way for room, way in ways if room in rooms)


def _first_run(snapshot: Snapshot, rooms: Rooms) -> Advice:
    """From a recipe to its first run: its rows, the base model, then training."""
    good = [view for view in snapshot.startable if view.recipe]
    many = len(snapshot.startable) > 1
    if not good:
        view = snapshot.startable[0]
        return Advice(
            f"recipes/{view.title} cannot be used.", f"{view.error} {view.mend}".strip(), "n", "check", "read it again", "screen.new",
            "✗", "$error",
        )  # fmt: skip
    view = good[0]
    train = Way("n", "train at once", "screen.new")
    if "data" in rooms and view.source_there and view.checked is None:
        return Advice(
            "Look at the rows first.", f"What is wrong in {view.source}, the model learns too.",
            "D", "look", "look at the rows", _go("data"), also=(train,),
        )  # fmt: skip
    if "data" in rooms and view.checked and view.checked.word == "blocked":
        return Advice(
            view.checked.sentence, "The room shows each of them, and what mends it.", "D", "mend", "mend them", _go("data"),
            "✗", "$error",
        )  # fmt: skip
    evals = [one for one in snapshot.evals if not is_sample(one.name)]
    if "evaluate" in rooms and view.source_there and not any(map(_whole_base, evals)):
        if failed := _failed(evals):
            again = ("E", "evaluate", "measure the base again", _go("evaluate"))
            return Advice(*_no_verdict(failed), *again, "✗", "$error", also=(train,))
        return Advice(
            "Measure the base model first.", "Only then can a verdict say whether training helped.",
            "E", "measure", "measure it", _go("evaluate"), also=(train,),
        )  # fmt: skip
    plan = (Way("P", "see what it costs", _go("plan")),) if "plan" in rooms else ()
    if many:
        able, every = len(snapshot.startable), len(snapshot.recipes)
        which = f"{able} of {every} recipes can start now." if able < every else f"{plural(every, 'recipe')} in recipes/."
        return Advice("Start a first run.", which, "n", "new", "choose a recipe", "screen.new", also=plan)
    return Advice(f"Train {_name(view)}.", _plan(view), "n", "train", "start the run", "screen.new", also=plan)


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
    """The stages, each with what the workspace shows of it."""
    newest = snapshot.runs[0] if snapshot.runs else None
    good = [view for view in snapshot.startable if view.recipe]
    view = next((view for view in good if newest and _is_of(view, newest)), next(iter(good), None))
    stages = [_data(snapshot, view), _plan_stage(newest), _baseline(snapshot), _train(snapshot, newest), _evaluate(snapshot)]
    if view and view.checked:
        stages.insert(1, _review(view.decided, view.checked.rows))
    return [*stages, _blind(snapshot), _adapter(snapshot)]


def _data(snapshot: Snapshot, view: RecipeView | None) -> Stage:
    rows = next((run.rows for run in snapshot.runs if run.rows and (view is None or _is_of(view, run))), None)
    checked = view.checked if view else None
    mark, token, result = "✓", "$success", ""
    if checked:
        mark, token, result = {
            "clean": ("✓", "$success", "clean"),
            "look": ("✓", "$success", f"ready, {checked.found:,} to look at"),
            "blocked": ("✗", "$error", f"{checked.found:,} to mend"),
        }.get(checked.word, (mark, token, result))
    if rows:
        train, valid, test = rows
        result = result or plural(train + valid + test, "row")
        return Stage(mark, token, "Data", f"{train:,} train, {valid:,} validation, {test:,} held out", result, "data")
    if view is None:
        return Stage("○", "$faint", "Data", "no recipe names any yet", room="data")
    if not view.source_there:
        return Stage("✗", "$error", "Data", f"{view.source} is not there", room="data")
    if checked:
        return Stage(mark, token, "Data", f"{plural(checked.rows, 'row')} in {view.source}", result, "data")
    return Stage("◐", "$primary", "Data", view.source, "not checked yet", "data")


def _review(decided: int, rows: int) -> Stage:
    """How many rows have a decision. None is needed: rows without one train."""
    if not decided:
        return Stage("○", "$faint", "Review", "rows train without a decision, too", room="review")
    done = decided >= rows
    what = f"{decided:,} decided" if done else f"{decided:,} decided, {rows - decided:,} to go"
    return Stage(
        "✓" if done else "◐",
        "$success" if done else "$primary",
        "Review",
        what,
        f"{100 * min(decided / max(rows, 1), 1):.0f} %",
        "review",
    )


def _plan_stage(newest: RunView | None) -> Stage:
    if newest is None or not newest.state.total:
        return Stage("○", "$faint", "Plan", "its room says whether a run would fit", room="plan")
    state = newest.state
    what = f"{state.total:,} steps" + (f" in {plural(state.epochs, 'epoch')}" if state.epochs else "")
    if not state.peak or not state.limit:
        return Stage("◐", "$primary", "Plan", what, room="plan")
    fits = state.peak <= state.limit
    peak = f"peak {state.peak / 2**30:.1f} of {state.limit / 2**30:.1f} GB"
    return Stage("✓" if fits else "!", "$success" if fits else "$warning", "Plan", what, peak, "plan")


def _baseline(snapshot: Snapshot) -> Stage:
    begun = [view for view in snapshot.evals if view.state.arms and not is_sample(view.name)]
    view = next((view for view in begun if _whole_base(view)), next(iter(begun), None))
    base = next((arm for arm in view.state.arms if arm[0] == "base"), None) if view else None
    if view is None or base is None:
        return Stage("○", "$faint", "Baseline", "measured by the first evaluation", room="evaluate")
    _, done, rows = base
    if done < rows:
        what = f"{done:,} of {plural(rows, 'held-out row')} answered"
        return Stage("●" if view.alive else "◐", "$primary", "Baseline", what, room="evaluate")
    known = snapshot.verdict.baseline if snapshot.verdict else ""
    return Stage("✓", "$success", "Baseline", f"{plural(rows, 'held-out row')} answered", known, "evaluate")


def _train(snapshot: Snapshot, newest: RunView | None) -> Stage:
    if newest is None:
        return Stage("○", "$faint", "Train", "nothing has been trained yet", room="train")
    sign, state = SIGNS[newest.status], newest.state
    what = f"step {state.step:,} of {state.total:,}" if state.total else newest.name
    left = time_left(newest, snapshot.now)
    result = sign.word
    if newest.status == "finished":
        last = state.validations[-1].loss if state.validations else None
        result = f"validation {last:.2f}" if last is not None else ""
    elif left is not None and newest.status == "running":
        result = f"{duration(left)} left"
    return Stage(sign.mark, sign.token, "Train", what, result, "train")


def _evaluate(snapshot: Snapshot) -> Stage:
    view, verdict = snapshot.evals[0] if snapshot.evals else None, snapshot.verdict
    if view and view.alive:
        return Stage("●", "$primary", "Evaluate", _evaluating(view).rstrip("."), room="evaluate")
    if verdict and verdict.word:
        return Stage(verdict.mark, verdict.token, "Evaluate", verdict.name, verdict.word, "evaluate")
    if view:
        sign = SIGNS[view.status]
        return Stage(sign.mark, sign.token, "Evaluate", view.state.error or view.name, sign.word, "evaluate")
    return Stage("○", "$faint", "Evaluate", "starts when you say so", room="evaluate")


def _blind(snapshot: Snapshot) -> Stage:
    """How far the newest evaluation's session has come. None is needed: a verdict stands on the contract."""
    votes = snapshot.votes
    if votes:
        done = votes.votes >= votes.due
        what = f"{votes.votes:,} of {plural(votes.due, 'vote')} on {plural(votes.pairs, 'pair')}"
        result = "opened" if votes.opened else "open the seal" if done else "sealed"
        return Stage("✓" if votes.opened else "◐", "$success" if votes.opened else "$primary", "Blind", what, result, "blind")
    compared = snapshot.verdict is not None and bool(snapshot.verdict.word)
    return Stage("○", "$faint", "Blind", "two arms, read without their names" if compared else "needs an evaluation", room="blind")


def _adapter(snapshot: Snapshot) -> Stage:
    """The adapter that is proved better than its base, and keeps the contract most often."""
    best = snapshot.best
    if best and best.reservation:
        return Stage("!", "$warning", "Adapter", f"{best.name} is better, but {best.reservation}", room="adapters")
    if best:
        return Stage(
            "✓", "$success", "Adapter", f"{best.name}, whole contract kept", f"{best.metrics[-1].tuned * 100:.1f} %", "adapters"
        )
    made = sum(view.status == "finished" for view in snapshot.runs)
    what = f"{plural(made, 'adapter')}, none proved better yet" if made else "none yet"
    return Stage("○", "$faint", "Adapter", what, room="adapters")
