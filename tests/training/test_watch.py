"""When a run should end by itself."""

from __future__ import annotations

import math

import pytest

from mlxtune.training.watch import WINDOW, Best, Divergence


def feed(losses: list[float]) -> list[str]:
    watch = Divergence()
    return [watch.add(loss) for loss in losses]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_told_at_once(loss: float) -> None:
    assert feed([1.0, loss]) == ["", "is not a number"]


def test_a_loss_that_doubled_over_a_window_runs_away() -> None:
    told = feed([2.0] * WINDOW + [4.2] * WINDOW)
    assert told[:-1] == [""] * (2 * WINDOW - 1)
    assert told[-1] == "runs away: 4.20 over the last 8 steps, from 2.00 at the start"


def test_a_single_spike_is_no_divergence() -> None:
    assert not any(feed([2.0] * WINDOW + [1.5, 80.0] + [1.5] * 20 + [90.0, 90.0, 1.4]))


def test_a_small_loss_that_doubles_is_no_divergence() -> None:
    assert not any(feed([0.1] * WINDOW + [0.9] * 50))


def test_a_bad_first_step_hides_nothing() -> None:
    assert feed([50.0] + [2.0] * WINDOW + [9.0] * WINDOW)[-1].startswith("runs away")


def test_the_best_is_the_lowest_and_the_first_of_equals() -> None:
    best = Best(patience=0)
    assert [best.add(step, loss) for step, loss in enumerate([3.0, 2.0, 2.0, 2.5, 1.0], 1)] == [True, True, False, False, True]
    assert (best.step, best.loss, best.since) == (5, 1.0, 0)


def test_patience_counts_validations_without_a_better_one() -> None:
    best = Best(patience=2)
    stale = []
    for step, loss in enumerate([3.0, 4.0, 2.0, 2.0, 5.0], 1):
        best.add(step, loss)
        stale.append(best.stale)
    assert stale == [False, False, False, False, True]
    assert best.step == 3


def test_without_patience_no_run_ends() -> None:
    best = Best(patience=0)
    for step in range(1, 50):
        best.add(step, float(step))
    assert not best.stale
