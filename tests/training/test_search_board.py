"""The board of a search: successive halving from results alone, and files that survive a crash at any point."""

import math
from dataclasses import replace

import pytest
from boards import board, rate

from mlxtune.core.errors import InputError
from mlxtune.core.files import write_json
from mlxtune.training.search import board as boards
from mlxtune.training.search.board import RungResult, SearchPlan, Trial


def run_all(rates: dict[int, int], **state: object) -> list[tuple[int, int]]:
    """Return the rungs that a search trains, in order, if every rung of a trial has the same rate."""
    passed: dict[tuple[int, int], list[int]] = {}
    order = []
    while (following := board(passed, trials=len(rates), **state).next_rung()) is not None:
        order.append(following)
        passed[following] = rate(rates[following[0]])
    return order


def test_the_best_third_and_the_recipe_continue():
    order = run_all({1: 2, 2: 18, 3: 16, 4: 12, 5: 10, 6: 3, 7: 1, 8: 0})
    assert order[:8] == [(number, 0) for number in range(1, 9)]
    assert order[8:12] == [(number, 1) for number in (1, 2, 3, 4)]  # the best three, and the recipe
    assert order[12:] == [(number, 2) for number in (1, 2, 3)]  # the best two of four, and the recipe


def test_pinned_trials_continue_and_dropped_ones_do_not():
    order = run_all({1: 10, 2: 18, 3: 16, 4: 0}, pinned=frozenset({4}), dropped=frozenset({2}))
    assert (4, 2) in order
    assert not any(number == 2 for number, _ in order)


def test_a_failed_trial_makes_room_for_the_next_one():
    passed = {(number, 0): rate(hits) for number, hits in enumerate((10, 18, 16, 14, 2, 1), 1)}
    assert board(passed, trials=6).cohort(1) == [1, 2, 3]
    assert board(passed, trials=6, failures={2: "NaN"}).cohort(1) == [1, 3, 4]


def test_the_limit_excludes_later_trials():
    assert {number for number, _ in run_all({1: 1, 2: 2, 3: 3, 4: 4}, limit=2)} == {1, 2}


def test_remaining_work():
    current = board({(1, 0): rate(5), (2, 0): rate(6)}, trials=8)
    assert current.remaining_work(8) == (10 * (6 + 4 + 3), 6 + 4 + 3)
    assert current.remaining_work(2) == (10 * (0 + 2 + 2), 2 + 2)
    longer = replace(current.plan.trials[2], steps=(20, 20, 20))
    trials = (*current.plan.trials[:2], longer)
    steps, rungs = replace(current, plan=replace(current.plan, trials=trials)).remaining_work(3)
    assert (steps, rungs) == (math.ceil(20 + 2 * 2 * 40 / 3), 1 + 2 + 2)


def test_answers_take_as_long_after_every_rung():
    """Otherwise, the answers after the first, shortest rungs would make every step look slow, and a budget would allow few trials."""
    results = {(number, 0): RungResult(number, 0, (True,), 1.0, 1, 10, 100.0, answering=80.0) for number in (1, 2)}
    current = replace(board({}, trials=8), results=results)
    assert current.estimate_seconds(50, 3) == 50 * 2.0 + 3 * 80.0


def test_files_restore_the_board(tmp_path):
    plan = SearchPlan(
        (Trial(1, {"rank": 8, "learning_rate": 1e-3}, 0.5, (4, 8), (4, 5)), Trial(2, {"rank": 16}, 1.0, (8, 16), (8, 10))),
        ("a", "b"), ("x", "y"),
    )  # fmt: skip
    assert boards.read_board(tmp_path) is None
    boards.write_plan(tmp_path, plan)
    result = RungResult(1, 0, (True, False), 3.25, 7, 4, 1.5)
    boards.write_result(tmp_path, result)
    boards.write_failure(tmp_path, 2, "The loss is NaN.")
    boards.choose(tmp_path, "drop", 1)
    boards.choose(tmp_path, "pin", 1)
    boards.choose(tmp_path, "limit", 2)
    board = boards.read_board(tmp_path)
    assert (board.plan, board.results) == (plan, {(1, 0): result})
    assert (board.failures, board.dropped, board.pinned, board.limit) == ({2: "The loss is NaN."}, frozenset(), frozenset({1}), 2)


def test_a_plan_without_rungs_is_damaged(tmp_path):
    trials = [{"number": 1, "values": {"rank": 8}, "cost": 0.5}, {"number": 2, "values": {"rank": 16}, "cost": 1.0}]
    write_json(tmp_path / boards.PLAN, {"v": 1, "trials": trials, "rows": ["a"], "groups": ["x"]})
    with pytest.raises(InputError, match="damaged"):
        boards.read_board(tmp_path)


@pytest.mark.parametrize(("adapted", "rank", "cost"), [(10, 0, 1.0), (5, 0, 2 / 3), (10, 50, 2.0)])
def test_cost_counts_forward_and_backward_passes(adapted, rank, cost):
    assert boards.relative_cost(adapted, 10, rank, 100) == pytest.approx(cost)
