"""Compare prediction-powered means with textbook formulas, with Rogan and Gladen's correction, and with the truth in simulation."""

import itertools
import math

import numpy
import pytest
from exhaustive import EXHAUSTIVE, cases

from mlxtune.evaluation.judge.judge_report import prediction_powered_mean
from mlxtune.evaluation.statistics.intervals import wilson

Draws = numpy.random.Generator


def _draw(draws: Draws, count: int, rate: float, sensitivity: float, specificity: float, ties: float = 0.0):
    """Return labels and predictions of ``count`` units."""
    labels = (draws.random(count) < rate).astype(float)
    predictions = numpy.where(labels == 1, draws.random(count) < sensitivity, draws.random(count) > specificity).astype(float)
    for values in (labels, predictions):
        values[draws.random(count) < ties] = 0.5
    return labels, predictions


def test_agrees_with_textbook_formulas_for_many_labels():
    labels, predictions = _draw(numpy.random.default_rng(1), 44_000, 0.4, 0.85, 0.9, ties=0.1)
    known, other = slice(0, 4_000), slice(4_000, None)
    y, f, u = labels[known], predictions[known], predictions[other]
    weight = numpy.cov(y, f)[0, 1] / ((1 + len(y) / len(u)) * numpy.var(predictions, ddof=1))
    value = y.mean() + weight * (u.mean() - f.mean())
    variance = numpy.var(y - weight * f, ddof=1) / len(y) + weight**2 * numpy.var(u, ddof=1) / len(u)
    ours = prediction_powered_mean(y.tolist(), f.tolist(), u.tolist())
    assert ours.weight == pytest.approx(weight, rel=2e-2)
    assert ours.powered.value == pytest.approx(value, abs=2e-4)
    assert ours.effective_n == pytest.approx(len(y) * numpy.var(y, ddof=1) / len(y) / variance, rel=5e-3)
    assert ours.effective_n > 1.6 * len(y)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_agrees_with_rogan_and_gladen():
    """Their correction inverts known error rates. Estimated from the same labels, it has the same limit."""
    draws = numpy.random.default_rng(2)
    for rate, sensitivity, specificity in itertools.product([0.1, 0.35, 0.8], [0.7, 0.9], [0.6, 0.95]):
        labels, predictions = _draw(draws, 400_000, rate, sensitivity, specificity)
        y, f, u = labels[:200_000], predictions[:200_000], predictions[200_000:]
        se, sp = f[y == 1].mean(), 1 - f[y == 0].mean()
        corrected = (predictions.mean() + sp - 1) / (se + sp - 1)
        assert prediction_powered_mean(y.tolist(), f.tolist(), u.tolist()).powered.value == pytest.approx(corrected, abs=6e-3)
        assert corrected == pytest.approx(rate, abs=6e-3)


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", cases([0.5, 0.75, 0.9, 1.0], "0.5", "1.0"))
@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_intervals_cover_and_are_not_wider_than_those_of_the_labels_alone(accuracy, ties):
    draws, runs = numpy.random.default_rng(3), 250 if EXHAUSTIVE else 80
    covered, powered_width, label_width, settings = 0, 0.0, 0.0, 0
    errors = []
    for rate, known, others in itertools.product([0.15, 0.5, 0.8], [12, 40], [8, 32, 200]):
        truth = rate * (1 - ties) + 0.5 * ties
        settings += 1
        for _ in range(runs):
            labels, predictions = _draw(draws, known + others, rate, accuracy, accuracy, ties)
            mean = prediction_powered_mean(labels[:known].tolist(), predictions[:known].tolist(), predictions[known:].tolist())
            covered += mean.powered.low <= truth <= mean.powered.high
            powered_width += mean.powered.high - mean.powered.low
            label_width += mean.labels.high - mean.labels.low
            errors.append(mean.powered.value - truth)
            assert mean.effective_n >= known - 1e-9
    total = settings * runs
    assert covered / total >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / total)
    assert powered_width <= label_width
    if accuracy == 1.0 and ties == 0.0:
        assert powered_width < 0.9 * label_width
    assert numpy.mean(errors) == pytest.approx(0, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("others", cases([8, 64], "64"))
def test_estimate_from_eight_votes_is_unbiased(others):
    """A weight that is estimated from the same votes as the mean is biased by up to 2.4 points."""
    draws, runs = numpy.random.default_rng(4), 3000 if EXHAUSTIVE else 1000
    for rate, accuracy in itertools.product([0.15, 0.8], [0.9, 1.0]):
        errors = []
        for _ in range(runs):
            labels, predictions = _draw(draws, 8 + others, rate, accuracy, accuracy)
            mean = prediction_powered_mean(labels[:8].tolist(), predictions[:8].tolist(), predictions[8:].tolist())
            errors.append(mean.powered.value - rate)
        assert abs(numpy.mean(errors)) < 3 * numpy.std(errors) / math.sqrt(runs) + 0.001


def test_judge_that_always_disagrees_is_ignored():
    labels, predictions = [1.0, 0.0] * 10, [0.0, 1.0] * 10
    mean = prediction_powered_mean(labels, predictions, [1.0] * 50)
    assert (mean.weight, mean.effective_n) == (0.0, 20)
    assert mean.powered == mean.labels


def test_perfect_agreement_with_few_labels_does_not_prove_a_perfect_judge():
    mean = prediction_powered_mean([1.0] * 6 + [0.0] * 2, [1.0] * 6 + [0.0] * 2, [1.0] * 3000 + [0.0] * 1000)
    assert mean.powered.value == pytest.approx(0.75, abs=0.03)
    assert 8 < mean.effective_n < 16


@pytest.mark.parametrize("unlabeled", [[], [1.0], [0.0] * 30])
@pytest.mark.parametrize("labels", [[1.0], [0.5, 0.5], [0.0] * 9])
def test_constant_values_give_finite_intervals(labels, unlabeled):
    mean = prediction_powered_mean(labels, labels, unlabeled)
    assert 0 <= mean.powered.low <= mean.powered.value <= mean.powered.high <= 1
    assert mean.powered.high - mean.powered.low > 0
    low, high = wilson(sum(labels), len(labels))
    assert (mean.labels.low, mean.labels.high) == (low, high)
