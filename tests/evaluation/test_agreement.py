"""Compare agreement statistics with statsmodels, an independent computation, and simulation."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from random import Random

import numpy
import pytest
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from mlxtune.evaluation.statistics.agreement import ConfusionCounts, corrected_rate, kappa

CLOSE = {"rel": 0, "abs": 1e-9}


@pytest.mark.parametrize("words", ["ab", "abt", "12345"])
def test_kappa_agrees_with_statsmodels(words):
    random = Random(len(words))
    for size, sharing in itertools.product([5, 12, 80, 400], [0.0, 0.4, 0.9]):
        first = [random.choice(words) for _ in range(size)]
        second = [one if random.random() < sharing else random.choice(words) for one in first]
        table = numpy.zeros((len(words), len(words)))
        for (one, two), count in Counter(zip(first, second, strict=True)).items():
            table[words.index(one), words.index(two)] = count
        theirs, ours = cohens_kappa(table), kappa(list(zip(first, second, strict=True)))
        assert ours is not None
        assert ours.value == pytest.approx(theirs.kappa, **CLOSE)
        assert ours.low == pytest.approx(max(-1.0, theirs.kappa_low), **CLOSE)
        assert ours.high == pytest.approx(min(1.0, theirs.kappa_upp), **CLOSE)


def test_kappa_is_one_for_agreement_and_undefined_for_single_category():
    perfect = kappa([("a", "a"), ("b", "b")] * 9)
    assert perfect is not None
    assert (perfect.low, perfect.value, perfect.high) == pytest.approx((1, 1, 1), **CLOSE)
    assert kappa([("a", "a")] * 9) is None
    with pytest.raises(ValueError, match="at least one pair"):
        kappa([])


def test_kappa_interval_covers_in_simulation():
    shares = numpy.array([[0.35, 0.10], [0.05, 0.50]])
    truth = cohens_kappa(shares * 1000).kappa
    covered = 0
    for draw in numpy.random.default_rng(3).multinomial(120, shares.ravel(), size=600).tolist():
        pairs = [pair for pair, count in zip(itertools.product("xy", repeat=2), draw, strict=True) for _ in range(count)]
        estimate = kappa(pairs)
        covered += estimate is not None and estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 600 <= 0.98


def test_perfect_judge_leaves_rate_unchanged():
    estimate = corrected_rate(30, 100, ConfusionCounts(500_000_000, 500_000_000, 500_000_000, 500_000_000))
    assert estimate is not None
    assert estimate.value == pytest.approx(0.3, **CLOSE)
    middle = stats.norm.isf(0.025) ** 2
    rate = (30 + middle / 2) / (100 + middle)  # Agresti–Coull interval
    half = stats.norm.isf(0.025) * math.sqrt(rate * (1 - rate) / (100 + middle))
    assert (estimate.low, estimate.high) == pytest.approx((rate - half, rate + half), abs=1e-6)
    assert (estimate.low, estimate.high) == pytest.approx(proportion_confint(30, 100, method="agresti_coull"), abs=1e-6)


def test_rogan_gladen_inverts_misclassification():
    for true, se, sp in itertools.product([0.1, 0.35, 0.8], [0.7, 0.9], [0.6, 0.95]):
        seen = true * se + (1 - true) * (1 - sp)
        estimate = corrected_rate(round(seen * 10**6), 10**6, ConfusionCounts(round(1000 * se), 1000, round(1000 * sp), 1000))
        assert estimate is not None
        assert estimate.value == pytest.approx(true, abs=1e-5)
        assert estimate.low < true < estimate.high


def test_corrected_interval_covers_in_simulation():
    draws = numpy.random.default_rng(5)
    for true, se, sp in [(0.3, 0.8, 0.85), (0.6, 0.9, 0.7), (0.1, 0.85, 0.95)]:
        covered = 0
        for _ in range(1000):
            known = ConfusionCounts(int(draws.binomial(25, se)), 25, int(draws.binomial(25, sp)), 25)
            estimate = corrected_rate(int(draws.binomial(120, true * se + (1 - true) * (1 - sp))), 120, known)
            covered += estimate is not None and estimate.low <= true <= estimate.high
        assert covered / 1000 >= 0.93


@pytest.mark.parametrize(
    "known", [ConfusionCounts(0, 0, 5, 5), ConfusionCounts(5, 5, 0, 0), ConfusionCounts(3, 6, 3, 6), ConfusionCounts(1, 5, 1, 5)]
)
def test_chance_level_judge_gives_no_correction(known):
    assert corrected_rate(3, 10, known) is None


def test_invalid_rates_are_refused():
    with pytest.raises(ValueError, match="hits must be between"):
        corrected_rate(4, 3, ConfusionCounts(5, 5, 5, 5))
