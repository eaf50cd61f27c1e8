"""The trend of the contract rate over the range of a hyperparameter."""

from dataclasses import replace

import pytest
from boards import board, rate

from mlxtune.training.search.board import Board
from mlxtune.training.search.leaderboard import trends


def searched(hits: list[int], values: list[dict[str, float | int | str]]) -> Board:
    current = board({(number, 0): rate(count) for number, count in enumerate(hits, 1)}, trials=len(hits))
    trials = tuple(replace(trial, values=given) for trial, given in zip(current.plan.trials, values, strict=True))
    return replace(current, plan=replace(current.plan, trials=trials))


def test_a_trend_is_a_slope_on_a_logarithmic_scale():
    values = [
        {"learning_rate": 10.0**-power, "rank": 8, "layers": layers}
        for power, layers in zip((5, 4, 3, 2), (4, "all", 8, 4), strict=True)
    ]
    lr, layers = trends(searched([2, 6, 10, 14], values))
    assert (lr.label, lr.lowest, lr.highest) == ("lr", 1e-5, 0.01)
    assert lr.change == pytest.approx(0.6)
    assert lr.low == pytest.approx(0.6)
    assert lr.high == pytest.approx(0.6)
    assert (layers.label, layers.lowest, layers.highest) == ("layers", 4, 8)
    assert layers.low <= layers.change <= layers.high


def test_three_trials_have_no_trend():
    assert trends(searched([2, 6, 10], [{"rank": 4}, {"rank": 8}, {"rank": 16}])) == ()
