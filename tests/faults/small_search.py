"""A complete search in half a second: the real search worker, trials and checkpoints; scores are drawn from the adapters' bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import small
from operations import leftovers
from scenario import Scenario

from mlxtune.core.files import read_json, write_json, write_text
from mlxtune.core.hashing import sha256_file
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.data.split import Splits
from mlxtune.evaluation import worker as evaluation_worker
from mlxtune.recipe import Recipe, dump, parse
from mlxtune.runs import events, registry
from mlxtune.runs.registry import Run
from mlxtune.runs.worker import Worker
from mlxtune.training import setup
from mlxtune.training.encode import EncodedRows
from mlxtune.training.loop import RunListener
from mlxtune.training.search import board as boards
from mlxtune.training.search import search_worker, trial
from mlxtune.training.setup import Foundation, TrainingSetup

RECIPE = (
    small.RECIPE.replace(f"steps = {small.STEPS}", "steps = 4").replace("save_every = 1", "save_every = 2")
    + "[search]\ntrials = 3\n"
)


def prepare(folder: Path) -> None:
    write_text(folder / "recipe.toml", dump(parse(RECIPE)))
    write_json(folder / registry.LAUNCH_FILE, {"v": 1, "kind": "search", "request": {}})


def row(number: int) -> Conversation:
    texts = ("tent", "stove", "boots", "parcel", "gift card", "kayak", "helmet", "lamp")
    messages = (
        Message("user", f"Where is the {texts[number]} of order {number * 7919}?"),
        Message("assistant", f"Shelf {number}."),
    )
    return Conversation(Location(Path("rows.jsonl"), number + 1), {}, messages)


def load_foundation(recipe: Recipe, worker: RunListener, reviewed: Path) -> Foundation:
    loaded = small.load_model(Path(), worker)
    splits = Splits(tuple(map(row, range(4))), tuple(map(row, range(4, 8))), ())
    nothing = EncodedRows([], [])
    return Foundation(splits, loaded, small.make_template(), nothing, nothing)


def build_loop(base: Foundation, recipe: Recipe, folder: Path, listener: RunListener) -> TrainingSetup:
    return TrainingSetup(base, small.build_loop(base.loaded, recipe, folder), [])


def score(runner: trial.TrialRunner, trial: Any, adapter: Path) -> tuple[tuple[bool, ...], float, int]:
    digest = sha256_file(adapter / "adapters.safetensors")
    return tuple(digit in "01234567" for digit in digest[: len(runner.rows)]), int(digest[:4], 16) / 1000, 100


def evaluate(worker: Worker) -> dict[str, Any]:
    write_json(worker.folder / "report.json", {"adapter": sha256_file(Path(worker.request["adapter"]) / "adapters.safetensors")})
    return {}


def install() -> Any:
    setup.load_foundation = load_foundation
    trial.build_loop = build_loop
    trial.TrialRunner._score = score
    evaluation_worker.evaluate = evaluate
    return search_worker.search


def check(search: Path) -> None:
    """Assert that every reported score is stored."""
    board = boards.read_board(search)
    reported = {event["trial"] for event in events.read_all(search) if event["type"] == "trial.scored"}
    assert reported <= {number for number, _ in board.results} if board else not reported


def end(search: Path) -> dict[str, Any]:
    """Return the search's results, its only run and evaluation, and half-written files."""
    workspace = search.parent.parent
    outcome = read_json(search / boards.OUTCOME)
    (run,) = registry.list_runs(workspace)
    (evaluation,) = registry.list_runs(workspace, "eval")
    assert (outcome["run"], outcome["evaluation"]) == (run.id, evaluation.id)
    return {
        "results": {key: replace(result, seconds=0.0, answering=0.0) for key, result in boards.read_board(search).results.items()},
        "outcome": {key: value for key, value in outcome.items() if key not in ("run", "evaluation")},
        "adapter": sha256_file(run.adapter / "adapters.safetensors"),
        "steps": [(step.step, step.loss, step.rate) for step in run.state().steps],
        "report": read_json(evaluation.folder / "report.json"),
        "status": [one.status() for one in (Run(search), run, evaluation)],
        "half-written": [name for one in (search, run.folder, evaluation.folder) for name in leftovers(one)],
    }


SCENARIO = Scenario("searches", prepare, install, check, end, final=60)  # of the evaluation
