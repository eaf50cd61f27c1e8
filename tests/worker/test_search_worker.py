"""Real searches on the tiny model: rungs are complete runs, killed searches continue, and failed trials are reported."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import finish, wait_until

from mlxtune.adapters.layout import LINEAGE
from mlxtune.core import files
from mlxtune.evaluation.holdout import ledger
from mlxtune.recipe import load
from mlxtune.runs import launch, registry
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunWarning
from mlxtune.training.search import board as boards
from mlxtune.training.search import leaderboard
from mlxtune.workspace import control

pytestmark = pytest.mark.slow

FAULTY_WORKER = """
import os
import sys
import weakref
from mlxtune.models.cpu import blas

blas.preload()
blas.preload = lambda: None
from mlxtune.training import loop, optimizer, stopping
from mlxtune.training.search import search_worker

set_rate = optimizer.set_rate
if os.environ.get("FAULT") == "nan":
    optimizer.set_rate = lambda made, rate, adapter: set_rate(made, float("nan") if rate > 0.3 else rate, adapter)
if os.environ.get("FAULT") == "memory":
    check = loop._TrainingRun._all_reduce
    def all_reduce(self, *arguments):
        result = check(self, *arguments)
        if self.loop.stack.first_adapted == 0:
            self._memory_warning = "The run uses 9 GB."
            self.loop.guard.over_limit = True
        return result
    loop._TrainingRun._all_reduce = all_reduce
if os.environ.get("FAULT") == "pressure":
    stopping.MemoryGuard.check = lambda guard: "The machine is running out of memory."
if os.environ.get("FAULT") == "one model":
    from mlxtune.models import load
    load_model, models = load.load, []
    def load_one(*arguments, **options):
        if any(model() is not None for model in models):
            raise MemoryError
        loaded = load_model(*arguments, **options)
        models.append(weakref.ref(loaded.model))
        return loaded
    load.load = load_one
sys.exit(search_worker.run_worker(search_worker.Path(sys.argv[1]), search_worker.search))
"""
SMALL = ("training.epochs=0", "training.steps=8", "training.save_every=2", "evaluation.regression=", "search.trials=3")


def start(workspace: Path, *overrides: str) -> Run:
    return control.search(workspace, load(workspace / "recipes" / "tiny.toml", (*SMALL, *overrides)))


def weights(folder: Path) -> bytes:
    return (folder / "adapters.safetensors").read_bytes()


def results(run: Run) -> dict[tuple[int, int], tuple[object, ...]]:
    """Return everything that a search measured, except times."""
    return {key: (result.passed, result.nats, result.tokens) for key, result in boards.read_board(run.folder).results.items()}


@pytest.mark.usefixtures("workers_in_process")
def test_the_selected_trial_is_a_run_that_is_evaluated_once(workspace):
    damaged = registry.create(workspace, "train", "damaged")
    damaged.adapter.mkdir()
    (damaged.folder / "recipe.toml").write_text("")
    (damaged.adapter / LINEAGE).write_text("{")
    board = leaderboard.read_leaderboard(finish(start(workspace)).folder)
    run = Run(workspace / "runs" / board.outcome.run)
    assert run.status() == "finished"
    again = launch.start(workspace, "train", run.recipe())  # a rung that continued from checkpoints equals a run from the start
    finish(again)
    assert weights(again.adapter) == weights(run.adapter)
    entries = [
        json.loads(line) for line in ledger.ledger_path(workspace / "evals" / board.outcome.evaluation).read_text().splitlines()
    ]
    assert [(entry["kind"], entry["by"]) for entry in entries] == [("eval", board.outcome.evaluation)]
    valid = json.loads((run.folder / "data.json").read_text())["valid"]
    assert not set(valid) & set(entries[0]["rows"])
    assert board.trained_steps < 3 * 8 * 1.15


@pytest.mark.exhaustive
@pytest.mark.usefixtures("workers_in_process")
def test_epochs_and_replay_are_searched(workspace, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {index}."}) + "\n" for index in range(12)))
    varied = (
        "search.epochs=[1, 2]",
        "search.replay=[0, 0.3]",
        "search.rank=[4]",
        "search.layers=[2]",
        "search.batch_size=[4]",
        f"data.replay_prompts={prompts}",
    )
    search = finish(start(workspace, "training.steps=0", "training.epochs=1", "training.batch_size=4", "search.trials=4", *varied))
    trials = boards.read_board(search.folder).plan.trials
    lengths = {(trial.values["epochs"], trial.values["replay"]): trial.rungs[-1] for trial in trials}
    assert len(lengths) > 2
    assert all(length == 2 * lengths.get((1, share), length / 2) for (epochs, share), length in lengths.items() if epochs == 2)
    for trial in trials:
        rows = json.loads((boards.trial_folder(search.folder, trial.number) / "data.json").read_text())["train"]
        assert any(row.get("replay") for row in rows) == bool(trial.values["replay"])
    shown = leaderboard.read_leaderboard(search.folder)
    run = Run(workspace / "runs" / shown.outcome.run)
    again = finish(launch.start(workspace, "train", run.recipe()))
    assert weights(again.adapter) == weights(run.adapter)


def entries(run: Run) -> dict[int, leaderboard.Entry]:
    return {entry.number: entry for entry in leaderboard.read_leaderboard(run.folder).entries}


@pytest.fixture
def fault(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes the next search workers fail in a given way."""
    (workspace / "faulty_worker.py").write_text(FAULTY_WORKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(workspace), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(registry.RUN_KINDS, "search", replace(registry.RUN_KINDS["search"], module="faulty_worker"))
    return lambda name: monkeypatch.setenv("FAULT", name)


@pytest.mark.exhaustive
def test_trials_with_nan_or_too_little_memory_fail_alone(workspace, fault):
    fault("nan")
    shown = entries(finish(start(workspace, "search.learning_rate=[0.6, 0.9]")))
    assert [shown[number].status for number in (1, 2, 3)] == ["selected", "failed", "failed"]
    assert "The loss at step 2 is NaN" in shown[2].error
    fault("memory")
    fixed = ("search.rank=[4]", "search.batch_size=[4]", "training.steps=24")  # the first rung has steps after the fault
    shown = entries(finish(start(workspace, "search.layers=[1, 2]", "adapter.layers=1", *fixed)))
    assert {entry.status for entry in shown.values() if 2 in entry.values} == {"failed"}
    assert all(
        entry.error == "It does not fit in memory: The run uses 9 GB." for entry in shown.values() if entry.status == "failed"
    )


@pytest.mark.exhaustive
def test_other_apps_that_need_the_memory_stop_the_search(workspace, fault):
    whole = finish(start(workspace))
    fault("pressure")
    search = start(workspace)
    wait_until(lambda: search.state().ended, search)
    assert (search.state().phase, search.state().error) == ("stopped", "The machine is running out of memory.")
    fault("")
    finish(launch.resume(search))
    assert results(search) == results(whole)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("workers_in_process")
def test_preference_training_is_searched(workspace):
    pairs = [
        {"prompt": f"Question {index}?", "chosen": "warm " * (1 + index % 4) + str(index), "rejected": f"cold {index}"}
        for index in range(40)
    ]
    (workspace / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    method = ("method.kind=dpo", 'method.loss=["sigmoid", "sft"]', "data.source=../pairs.jsonl")
    references = set((files.home() / "references").glob("*.jsonl"))
    board = boards.read_board(finish(start(workspace, *method, "search.trials=2")).folder)
    assert set(board.plan.trials[1].values) == {"learning_rate", "rank", "layers", "batch_size", "beta", "sft_weight"}
    assert board.top_rung == 2
    assert len(set((files.home() / "references").glob("*.jsonl")) - references) <= 1, "the reference is the same for all trials"


@pytest.mark.exhaustive
def test_a_trial_is_dropped_and_the_evaluation_loads_no_second_model_and_asks_no_endpoint(workspace, fault):
    fault("one model")
    endpoint = (
        'evaluation.arms=["base", "endpoint:other", "tuned"]',
        'evaluation.endpoints.other={ model = "m", url = "http://127.0.0.1:9/v1" }',
    )
    search = start(workspace, *endpoint)
    boards.choose(search.folder, "drop", 2)
    board = leaderboard.read_leaderboard(finish(search).folder)
    assert entries(search)[2].status == "dropped"
    assert board.outcome.held_out
    assert "endpoint:other" in Run(workspace / "runs" / board.outcome.run).recipe().evaluation.arms


@pytest.mark.exhaustive
@pytest.mark.usefixtures("workers_in_process")
def test_a_null_search_announces_no_winner(workspace):
    same = (
        "search.learning_rate=[1e-2, 1e-2]",
        "search.rank=[4]",
        "search.layers=[2]",
        "search.batch_size=[4]",
        "search.seed=[1, 2, 3, 4]",
        "search.trials=4",
    )
    board = leaderboard.read_leaderboard(finish(start(workspace, *same)).folder)
    assert board.parameters == ("seed",)
    assert len({entry.loss for entry in board.entries}) > 1
    assert board.decision.outcome == "no_difference"
    assert board.decision.selected == 1


@pytest.mark.exhaustive
@pytest.mark.usefixtures("workers_in_process")
def test_the_budget_limits_the_trials(workspace):
    search = finish(start(workspace, "search.budget=21 steps"))
    board = boards.read_board(search.folder)
    assert (board.limit, board.top_rung) == (2, 2)  # two trials up to the end instead of three up to the middle
    assert board.trained_steps <= 21
    assert search.state().warnings[0] == RunWarning("budget_limits_trials", {"budget": "21 steps", "trials": 2})
    search = finish(start(workspace, "search.budget=7 steps"))
    assert "budget_spent" in [warning.code for warning in search.state().warnings]
