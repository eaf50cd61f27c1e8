"""Early stopping and divergence detection."""

import math

import pytest

from mlxtune.training.stopping import WINDOW, BestValidation, DivergenceDetector, lower_beyond_noise

STARTED = [2.0] * WINDOW


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        *(([1.0, loss], "is NaN or infinite") for loss in (math.nan, math.inf, -math.inf)),
        (STARTED + [4.2] * WINDOW, "diverges: its median over the last 8 steps is 4.20, up from 2.00 at the start"),
        ([50.0, *STARTED[1:], *[9.0] * WINDOW], "diverges: its median over the last 8 steps is 9.00, up from 2.00 at the start"),
        ([*STARTED, 1.5, 80.0, *[1.5] * 20, 90.0, 90.0, 1.4], ""),
        ([0.1] * WINDOW + [0.9] * 50, ""),
    ],
    ids=["NaN", "infinite", "minus infinite", "doubled", "bad first step", "spikes", "small"],
)
def test_divergence_is_reported_once_a_window_shows_it(losses, problem):
    watch = DivergenceDetector()
    assert [watch.add(loss) for loss in losses] == [*[""] * (len(losses) - 1), problem]


def test_best_is_first_lowest_loss():
    best = BestValidation(patience=0)
    assert [best.add(step, loss) for step, loss in enumerate([3.0, 2.0, 2.0, 2.5, 1.0], 1)] == [True, True, False, False, True]
    assert (best.step, best.loss, best.since) == (5, 1.0, 0)


@pytest.mark.parametrize(("patience", "stops"), [(0, False), (2, True)], ids=["never stops", "stops"])
def test_patience_counts_validations_without_improvement(patience, stops):
    best = BestValidation(patience=patience)
    stale = []
    for step, loss in enumerate([3.0, 4.0, 2.0, 2.0, 5.0], 1):
        best.add(step, loss)
        stale.append(best.should_stop)
    assert stale == [False, False, False, False, stops]
    assert best.step == 3


@pytest.mark.parametrize(
    ("later", "lower"),
    [
        ([2.0] * 8, True),
        ([2.0, 1.9, 2.1, 2.0, 1.8, 2.2, 2.0, 2.0], True),
        ([1.0, 3.0, 0.0, 4.0, 1.0, 2.0, 1.0, 2.0], False),
        ([1.0] * 8, False),
        ([2.0] * 7, False),
    ],
)
def test_lower_loss_counts_only_beyond_the_noise_of_batches(later, lower):
    assert lower_beyond_noise([1.0] * len(later), later) is lower
