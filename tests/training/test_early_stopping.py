"""Early stopping and divergence detection."""

import math

import pytest

from mlxtune.training.stopping import WINDOW, BestValidation, DivergenceDetector, lower_beyond_noise


def feed(losses: list[float]) -> list[str]:
    watch = DivergenceDetector()
    return [watch.add(loss) for loss in losses]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_non_finite_loss_is_reported_at_once(loss):
    assert feed([1.0, loss]) == ["", "is NaN or infinite"]


def test_doubled_loss_over_window_is_divergence():
    reasons = feed([2.0] * WINDOW + [4.2] * WINDOW)
    assert reasons[:-1] == [""] * (2 * WINDOW - 1)
    assert reasons[-1] == "diverges: its median over the last 8 steps is 4.20, up from 2.00 at the start"


def test_single_spike_is_not_divergence():
    assert not any(feed([2.0] * WINDOW + [1.5, 80.0] + [1.5] * 20 + [90.0, 90.0, 1.4]))


def test_doubled_small_loss_is_not_divergence():
    assert not any(feed([0.1] * WINDOW + [0.9] * 50))


def test_bad_first_step_does_not_hide_divergence():
    assert feed([50.0] + [2.0] * WINDOW + [9.0] * WINDOW)[-1].startswith("diverges")


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
