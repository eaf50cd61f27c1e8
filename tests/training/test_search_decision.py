"""The decision of a search: ties, the cheapest, no winner among equals, an estimate that accounts for the selection, and trends."""

import random
from dataclasses import replace
from statistics import NormalDist, fmean, stdev

import pytest
from boards import board, rate

from mlxtune.training.search import leaderboard
from mlxtune.training.search.board import Board
from mlxtune.training.search.leaderboard import decide


def test_a_clearly_better_trial_improves():
    passed = {(number, rung): rate(hits, 40) for rung in range(3) for number, hits in enumerate((10, 38, 11, 9), 1)}
    decided = decide(board(passed, trials=4))
    assert (decided.outcome, decided.selected, decided.tied) == ("improved", 2, (2,))


def test_the_cheapest_of_tied_trials_is_selected():
    passed = {(number, 2): rate(hits, 40) for number, hits in enumerate((10, 38, 37), 1)}
    decided = decide(board(passed, trials=3, costs=(1.0, 0.9, 0.4)))
    assert (decided.outcome, decided.best, decided.selected) == ("improved", 2, 3)
    assert decided.tied == (2, 3)


def test_the_recipe_wins_against_equals():
    passed = {(number, 2): rate(hits) for number, hits in enumerate((15, 16, 14), 1)}
    decided = decide(board(passed, trials=3))
    assert (decided.outcome, decided.selected) == ("no_difference", 1)
    assert (decided.tied, decided.compared) == ((2, 1, 3), 3)


def test_a_spent_budget_does_not_make_the_only_finished_trial_the_cheapest():
    passed = {(1, 0): rate(8), (2, 0): rate(9), (1, 1): rate(15)}
    decided = decide(board(passed, trials=2, rungs=2, costs=(1.0, 0.5)))
    assert (decided.selected, decided.tied, decided.compared) == (1, (1,), 2)


def test_one_trial_is_not_compared():
    assert decide(board({(1, 0): rate(15)}, trials=3)).compared == 1


def test_nothing_is_decided_without_results():
    assert decide(board({}, trials=3)) is None


def null_search(rng: random.Random, *, trials: int = 12, rows: int = 72, truth: float = 0.7) -> Board:
    """Run a search whose trials have the same true rate: each row has a difficulty, and each answer varies around it."""
    ease = [min(1.0, max(0.0, rng.gauss(truth, 0.25))) for _ in range(rows)]
    passed: dict[tuple[int, int], list[int]] = {}
    current = board(passed, trials=trials)
    while (following := current.next_rung()) is not None:
        number, rung = following
        before = passed.get((number, rung - 1))
        answers = [int(rng.random() < p) for p in ease]
        if before:  # a longer run answers most rows as before
            answers = [old if rng.random() < 0.7 else new for old, new in zip(before, answers, strict=True)]
        passed[following] = answers
        current = board(passed, trials=trials)
    return current


@pytest.mark.slow
def test_null_searches():
    """Of 500 searches among equals, few announce a winner; the best rate is optimistic, the held-out rate is not.

    docs/search.md has the figures.
    """
    rng, mean, deviation = random.Random(20), 0.7, 0.25
    truth = fmean(min(1.0, max(0.0, NormalDist(mean, deviation).inv_cdf((index + 0.5) / 10_000))) for index in range(10_000))
    raw, shrunken, held_out, winners = [], [], [], 0
    for _ in range(500):
        current = null_search(rng, truth=mean)
        decided = decide(current)
        best = decided.best
        raw.append(current.results[best, decided.rung].rate)
        shrunken.append(leaderboard.shrunken_rate(current, best, decided.rung))
        held_out.append(fmean(rng.random() < min(1.0, max(0.0, rng.gauss(mean, deviation))) for _ in range(72)))
        winners += decided.outcome == "improved"
    error = 4 * stdev(held_out) / len(held_out) ** 0.5
    assert abs(fmean(held_out) - truth) < error
    assert fmean(raw) - truth > 0.05
    assert abs(fmean(shrunken) - truth) < 0.02
    assert winners / 500 < 0.05
    print(
        f"truth {truth:.4f}, raw {fmean(raw):.4f}, shrunken {fmean(shrunken):.4f}, held-out {fmean(held_out):.4f}, winners {winners}"
    )


def searched(hits: list[int], values: list[dict[str, float | int | str]]) -> Board:
    current = board({(number, 0): rate(count) for number, count in enumerate(hits, 1)}, trials=len(hits))
    trials = tuple(replace(trial, values=given) for trial, given in zip(current.plan.trials, values, strict=True))
    return replace(current, plan=replace(current.plan, trials=trials))


def test_a_trend_is_a_slope_on_a_logarithmic_scale():
    values = [
        {"learning_rate": 10.0**-power, "rank": 8, "layers": layers}
        for power, layers in zip((5, 4, 3, 2), (4, "all", 8, 4), strict=True)
    ]
    lr, layers = leaderboard.trends(searched([2, 6, 10, 14], values))
    assert (lr.label, lr.lowest, lr.highest) == ("lr", 1e-5, 0.01)
    assert (lr.low, lr.change, lr.high) == pytest.approx((0.6, 0.6, 0.6))
    assert (layers.label, layers.lowest, layers.highest) == ("layers", 4, 8)
    assert layers.low <= layers.change <= layers.high


def test_three_trials_have_no_trend():
    assert leaderboard.trends(searched([2, 6, 10], [{"rank": 4}, {"rank": 8}, {"rank": 16}])) == ()
