"""The search worker: ``python -m mlxtune.training.search.search_worker SEARCH_DIR``.

It trains the trials one after another in one process, so that the rows and the base model are loaded once. The adapter of the
selected trial becomes a separate training run, which is evaluated once on the held-out rows.
"""

from __future__ import annotations

import gc
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.adapters.entry import read_lineage
from mlxtune.core.errors import DataError, GpuError, Interrupted, MachineError, MlxtuneError, RecipeError
from mlxtune.core.files import disk_errors, read_json, write_json, write_text
from mlxtune.data.rows import PromptRow
from mlxtune.data.split import group_labels
from mlxtune.evaluation.arms import ENDPOINT
from mlxtune.models.cpu import blas
from mlxtune.planning.cost import typical_watts
from mlxtune.planning.machine import this_machine
from mlxtune.planning.training_rule import by_rule, example_count, model_width
from mlxtune.recipe import Recipe, SearchSection, dump, read_template
from mlxtune.recipe.schema import layer_count
from mlxtune.runs import events, launch, registry
from mlxtune.runs.registry import RUN_KINDS, Run
from mlxtune.runs.worker import Worker, is_out_of_memory, run_nested, run_worker
from mlxtune.training.search import board as boards
from mlxtune.training.search import leaderboard, space
from mlxtune.training.search.board import OUTCOME, Board, SearchPlan, Trial, rung_folder, trial_folder
from mlxtune.training.search.budget import active_seconds, parse_budget

if TYPE_CHECKING:  # these modules import mlx, which must come after the BLAS is loaded
    from mlxtune.training.search.trial import TrialRunner
    from mlxtune.training.setup import Foundation

MIN_TRIALS = 2  # regardless of the budget


def search(worker: Worker) -> dict[str, Any]:
    worker.report_start("search", **({"step": 0} if boards.read_board(worker.folder) else {}))
    if not (worker.folder / OUTCOME).is_file():
        _train_and_decide(worker)
        gc.collect()  # frees the model, because the evaluation loads it again
    return _evaluate(worker)


def _train_and_decide(worker: Worker) -> None:
    """Train all trials, make a run of the selected trial's adapter, and write ``outcome.json``."""
    from mlxtune.training.search.trial import TrialRunner
    from mlxtune.training.setup import REVIEW, load_foundation, with_replay

    recipe = search_recipe(worker.recipe)
    base = load_foundation(recipe, worker, worker.folder / REVIEW)
    rows = [row for row in base.splits.valid if isinstance(row, PromptRow)]
    board = boards.read_board(worker.folder) or _plan(worker, recipe, base, rows)
    if list(board.plan.rows) != [row.id for row in rows]:
        raise DataError("The validation rows differ from those that the search started with.", hint="Start a new search.")
    own = board.trial(boards.INCUMBENT)
    worker.emit("search.planned", trials=len(board.trials), rungs=list(own.rungs), rows=len(rows))
    most = max(board.trials, key=lambda trial: space.with_values(recipe, trial.values).data.replay)
    with_replay(base, space.with_values(recipe, most.values), worker)  # the base answers now, and all trials use its answers
    with TrialRunner(worker, recipe, base, rows, board.plan) as runner:
        board = _train_all(worker, runner, board)
    outcome = leaderboard.decide(board)
    if outcome is None:
        reason = next(iter(board.failures.values()), "the budget was too small.")
        raise MlxtuneError(f"No trial was completed: {reason}", hint="Correct the recipe, or raise the budget.")
    worker.emit(
        "search.decided", selected=outcome.selected, outcome=outcome.outcome, tied=list(outcome.tied), compared=outcome.compared
    )
    run = _make_run(worker, base, board, outcome)
    write_json(worker.folder / OUTCOME, {"v": boards.OUTCOME_VERSION, **asdict(outcome), "run": run.id, "evaluation": ""})


def search_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of all trials: with enough validation rows to compare them."""
    return replace(recipe, data=replace(recipe.data, validation=max(recipe.data.validation, recipe.search.validation)))


def _plan(worker: Worker, recipe: Recipe, base: Foundation, rows: list[PromptRow]) -> Board:
    """Draw the trials and write the plan. Raise ``InputError`` if there is nothing to search or to compare trials on."""
    if not rows:
        raise DataError("There are no validation rows with a prompt, which a search needs to compare trials.")
    depth, width = len(base.loaded.model.layers), model_width(base.loaded.source.config)
    center = by_rule(recipe, width, example_count(base.splits.train, recipe.data.max_tokens))
    drawn = space.draw_trials(recipe, center, depth, recipe.search.trials)
    totals = _total_steps(worker, [space.with_values(recipe, values) for values in drawn], base)
    if min(totals) < boards.MIN_STEPS:
        raise RecipeError(
            f"A search needs at least {boards.MIN_STEPS} steps per trial, but one has {min(totals)}.", hint="Raise training.epochs."
        )
    rung_count = min(len(boards.rung_lengths(total)) for total in totals)
    trials = []
    for number, (values, total) in enumerate(zip(drawn, totals, strict=True), 1):
        own = space.with_values(recipe, values)
        layers = layer_count(own.adapter.layers, depth)
        cost = boards.relative_cost(layers, depth, own.adapter.rank, width) * total / totals[0]
        cost *= own.training.batch_size / recipe.training.batch_size if recipe.training.batch_size else 1
        lengths = boards.rung_lengths(total)[-rung_count:]
        trials.append(Trial(number, dict(values), cost, lengths, boards.rung_steps(recipe.training, lengths)))
    sources = [*base.splits.train, *base.splits.valid, *base.splits.test]
    labels = group_labels(sources, recipe.data.turns, recipe.data.group_by)
    group_of = {row.id: str(label) for row, label in zip(sources, labels, strict=True)}
    plan = SearchPlan(tuple(trials), tuple(row.id for row in rows), tuple(group_of[row.id] for row in rows))
    boards.write_plan(worker.folder, plan)
    return Board(plan)


def _total_steps(worker: Worker, recipes: Sequence[Recipe], base: Foundation) -> list[int]:
    """Return the number of steps of each recipe's run. The recipes differ only in what a search varies."""
    from mlxtune.models import lora
    from mlxtune.training.setup import build_loop, with_replay

    if recipes[0].training.steps:
        return [recipes[0].training.steps] * len(recipes)
    loops = {}
    for recipe in recipes:
        if recipe.data.replay not in loops:
            loops[recipe.data.replay] = build_loop(with_replay(base, recipe, worker), recipe, worker.folder, worker).loop
            lora.remove(base.loaded.model)
    return [replace(loops[recipe.data.replay], section=recipe.training).total_steps for recipe in recipes]


def _train_all(worker: Worker, runner: TrialRunner, board: Board) -> Board:
    """Train every trial to its last rung. Raise ``Interrupted`` if the user stops it, or ``MachineError`` if the disk is full."""
    ended: set[int] = set()
    while (following := board.next_rung()) is not None:
        number, rung = following
        is_extra = rung == 0 and number > MIN_TRIALS and not board.limit
        if is_extra and not _is_affordable(worker, board, *board.remaining_work(number)):
            boards.choose(worker.folder, "limit", number - 1)
            worker.warn("budget_limits_trials", budget=worker.recipe.search.budget, trials=number - 1)
            board = boards.read_board(worker.folder) or board
            continue
        trial = board.trial(number)
        if not _is_affordable(worker, board, trial.steps[rung], 1):
            worker.warn("budget_spent", budget=worker.recipe.search.budget)
            break
        worker.emit("trial.started", trial=number, steps=trial.rungs[rung], values=dict(trial.values))
        try:
            result = runner.run(trial, rung)
        except Interrupted as stop:
            if worker.stopping or stop.reason:  # a reason means that other apps need the memory
                raise Interrupted(board.trained_steps, stop.reason) from stop
        except (MachineError, GpuError):
            raise
        except MlxtuneError as error:
            boards.write_failure(worker.folder, number, error.message)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            boards.write_failure(worker.folder, number, "out of memory")
        else:
            boards.write_result(worker.folder, result)
            loss = result.loss if math.isfinite(result.loss) else None
            worker.emit("trial.scored", trial=number, steps=trial.rungs[rung], rate=result.rate, loss=loss)
        board = boards.read_board(worker.folder) or board
        _report_ended(worker, board, ended)
    return board


def _report_ended(worker: Worker, board: Board, ended: set[int]) -> None:
    """Emit an event for each trial that does not continue and is not yet in ``ended``."""
    for number in [trial.number for trial in board.trials if trial.number not in ended]:
        if number in board.failures:
            worker.emit("trial.ended", trial=number, status="failed", error=board.failures[number])
        elif number in board.dropped:
            worker.emit("trial.ended", trial=number, status="dropped")
        elif board.is_pruned(number):
            worker.emit("trial.ended", trial=number, status="pruned", standing=asdict(leaderboard.standing(board, number)))
        else:
            continue
        ended.add(number)


def _is_affordable(worker: Worker, board: Board, steps: int, rungs: int) -> bool:
    """Return whether the budget allows ``steps`` more steps in ``rungs`` rungs. The first rung always runs, to measure the speed."""
    budget = parse_budget(worker.recipe.search.budget)
    if budget is None or not board.results:
        return True
    if budget.unit == "steps":
        return board.trained_steps + steps <= budget.amount
    seconds = active_seconds(events.read_all(worker.folder)) + board.estimate_seconds(steps, rungs)
    return (seconds / 3600 * typical_watts(this_machine().chip)[0] if budget.unit == "Wh" else seconds) <= budget.amount


def _evaluate(worker: Worker) -> dict[str, Any]:
    """Evaluate the selected trial's adapter on the held-out rows, delete the checkpoints, and return the summary."""
    from mlxtune.evaluation.worker import evaluate

    folder, workspace = worker.folder, worker.folder.parent.parent
    record = read_json(folder / OUTCOME)
    run = Run(workspace / RUN_KINDS["train"].folder / record["run"])
    if not record["evaluation"]:
        record["evaluation"] = registry.create(workspace, "eval", run.recipe().name).id
        write_json(folder / OUTCOME, record)
    evaluation = Run(workspace / RUN_KINDS["eval"].folder / record["evaluation"])
    if not (evaluation.folder / "recipe.toml").is_file():
        launch.write_record(evaluation, "eval", {"run": run.id, "adapter": str(run.adapter)})
        recipe = run.recipe()  # without arms at endpoints, because nothing is sent to them without the user's consent
        arms = [arm for arm in recipe.evaluation.arms if not arm.startswith(ENDPOINT)]
        recipe = replace(recipe, evaluation=replace(recipe.evaluation, arms=arms))
        write_text(evaluation.folder / "recipe.toml", dump(recipe))  # last: a folder with a recipe counts as an evaluation
    if evaluation.state().phase != "finished":
        run_nested(worker, evaluation.folder, evaluate)
    for trunk in folder.glob("trials/*/trunk"):
        shutil.rmtree(trunk, ignore_errors=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return {"outcome": record["outcome"], "selected": record["selected"], "run": run.id, "evaluation": evaluation.id}


def _make_run(worker: Worker, base: Foundation, board: Board, outcome: leaderboard.SearchDecision) -> Run:
    """Return a training run with the adapter, recipe and events of the selected trial. It appears complete or not at all."""
    from mlxtune.training.checkpoint import write_lineage
    from mlxtune.training.worker import make_lineage

    workspace = worker.folder.parent.parent
    for run in registry.list_runs(workspace):
        if read_lineage(run.adapter).get("search") == worker.folder.name:
            return run  # already created before the search was killed
    trial = board.trial(outcome.selected)
    source, length, total = trial_folder(worker.folder, trial.number), trial.rungs[outcome.rung], trial.rungs[-1]
    recipe = boards.rung_recipe(space.with_values(search_recipe(worker.recipe), trial.values), length, total)
    recipe = replace(recipe, search=SearchSection())
    run = registry.create(workspace, "train", recipe.name)
    with disk_errors(run.id):
        shutil.copytree(rung_folder(worker.folder, trial.number, outcome.rung) / "adapter", run.adapter)
        shutil.copy(source / "data.json", run.folder / "data.json")
        shutil.copy(source / events.FILE, run.folder / events.FILE)
    recipe = launch.freeze(recipe, run.folder, read_template(recipe))
    loss = board.results[trial.number, outcome.rung].loss
    summary: Any = {"steps": length, "validation": loss if math.isfinite(loss) else None, "checkpoint": 0, "adapter_step": length}
    lineage = make_lineage(run.folder, recipe, base) | {"search": worker.folder.name, "trial": trial.number}
    write_lineage(run.adapter, lineage, length, validation=summary["validation"])
    launch.write_record(run, "train", {})
    with events.EventWriter(run.folder) as writer:
        writer.emit("run.finished", summary=summary)
    write_text(run.folder / "recipe.toml", dump(recipe))  # written last: a folder with a recipe counts as a run
    return run


if __name__ == "__main__":
    blas.preload()
    sys.exit(run_worker(Path(sys.argv[1]), search))
