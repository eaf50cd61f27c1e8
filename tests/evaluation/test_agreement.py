"""Compare agreement statistics with statsmodels, an independent computation, and simulation."""

import itertools
from collections import Counter
from random import Random

import numpy
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from mlxtune.evaluation.statistics.agreement import kappa

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
    assert kappa([]) is None


def test_kappa_interval_covers_in_simulation():
    shares = numpy.array([[0.35, 0.10], [0.05, 0.50]])
    truth = cohens_kappa(shares * 1000).kappa
    covered = 0
    for draw in numpy.random.default_rng(3).multinomial(120, shares.ravel(), size=600).tolist():
        pairs = [pair for pair, count in zip(itertools.product("xy", repeat=2), draw, strict=True) for _ in range(count)]
        estimate = kappa(pairs)
        covered += estimate is not None and estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 600 <= 0.98
