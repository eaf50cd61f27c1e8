"""Searches on disk for the app: planned, running, finished and crashed."""

from dataclasses import asdict
from pathlib import Path

from mlxtune.core.files import write_json
from mlxtune.training.search import board as boards
from mlxtune.training.search import leaderboard
from mlxtune.training.search.board import RungResult, SearchPlan, Trial

from .stage import FINISHED, RECIPE, Shop, started

ID = "20261126-0100-support-json"
RATES = (2e-4, 5.4e-4, 1.1e-3, 4.1e-5, 2.3e-4, 8.7e-5, 7.4e-4, 3.3e-4)
RANKS = (8, 16, 4, 8, 16, 4, 8, 16)
LAYERS = ("all", 8, 16, 30, 8, 16, 30, 8)
VALUES = [{"learning_rate": rate, "rank": rank, "layers": layers} for rate, rank, layers in zip(RATES, RANKS, LAYERS, strict=True)]
HITS = {  # of 74 rows, after each rung
    1: (20, 30, 38), 2: (50, 61, 66), 3: (58, 65, 69), 4: (2,), 5: (33,), 6: (12,), 7: (52, 60), 8: (40,)
}  # fmt: skip
ROWS = 74


def write_search(
    shop: Shop, *, id: str = ID, done: int = 99, failed: bool = False, finished: bool = False, alive: bool = False
) -> Path:
    """Write a search of eight trials, of which the first ``done`` rungs in order have results."""
    folder = shop.folder / "searches" / id
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE.format(name="support-json"))
    trials = tuple(
        Trial(number, values, boards.relative_cost(8, 30, values["rank"], 576), (10, 20, 60), (10, 12, 44))
        for number, values in enumerate(VALUES, 1)
    )
    rows = tuple(map(str, range(ROWS)))
    boards.write_plan(folder, SearchPlan(trials, rows, rows))
    events = [started("search"), ("search.planned", {"trials": 8, "rungs": [10, 20, 60], "rows": ROWS})]
    if failed:
        boards.write_failure(folder, 5, "The loss at step 7 is NaN or infinite.")
    for results in range(done + 1):
        board = boards.read_board(folder)
        assert board
        following = board.next_rung()
        if following is None:
            break
        number, rung = following
        events.append(("trial.started", {"trial": number, "steps": board.trial(number).rungs[rung], "values": {}}))
        if results < done:
            hits = HITS[number][min(rung, len(HITS[number]) - 1)]
            passed = tuple((index * 29 + 11 * number) % ROWS < hits for index in range(ROWS))
            steps = board.trial(number).steps[rung]
            boards.write_result(folder, RungResult(number, rung, passed, 900.0 - 5 * hits, 1000, steps, 60.0))
    if finished:
        decided = leaderboard.decide(board)
        assert decided
        names = dict.fromkeys(("run", "evaluation"), "20261126-0138-support-json")
        write_json(folder / boards.OUTCOME, {"v": boards.OUTCOME_VERSION, **asdict(decided), **names})
        events.append(FINISHED)
    shop.tell(folder, events, age=30)
    if alive:
        shop.hold(folder)
    return folder
