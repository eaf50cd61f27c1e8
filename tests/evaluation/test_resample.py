"""Compare bootstrap intervals with scipy on the same draws, and check the distribution of draws and the simulated coverage."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import numpy
import pytest
from scipy import stats

from mlxtune.evaluation.statistics.bootstrap import bootstrap, resampled_means


def _scored(seed: int, clusters: int, most: int) -> tuple[list[float], list[int]]:
    random = Random(seed)
    groups = [group for group in range(clusters) for _ in range(random.randint(1, most))]
    return [round(random.gauss(group % 3, 1), 2) for group in groups], groups


@pytest.mark.parametrize(("seed", "clusters", "most"), [(1, 4, 1), (2, 9, 3), (3, 30, 1), (4, 25, 6)])
def test_interval_matches_scipy_bca_on_same_draws(seed, clusters, most):
    values, groups = _scored(seed, clusters, most)
    pairs = [
        (sum(v for v, g in zip(values, groups, strict=True) if g == group), groups.count(group)) for group in dict.fromkeys(groups)
    ]
    drawn = numpy.array(resampled_means(pairs, seed, 999))
    theirs = stats.bootstrap(
        tuple(numpy.array(pairs, dtype=float).T),
        lambda total, count, axis: total.mean(axis=axis) / count.mean(axis=axis),
        paired=True, n_resamples=0, bootstrap_result=SimpleNamespace(bootstrap_distribution=drawn), method="BCa",
    ).confidence_interval  # fmt: skip
    ours = bootstrap(values, groups, seed, 999)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0, abs=1e-9)
    assert ours.value == pytest.approx(numpy.mean(values), rel=0, abs=1e-9)
    assert ours.groups == clusters


def test_draws_are_reproducible_by_seed():
    values, groups = _scored(7, 20, 2)
    assert bootstrap(values, groups, 1) == bootstrap(values, groups, 1)
    assert bootstrap(values, groups, 1) != bootstrap(values, groups, 2)


def test_draws_spread_as_standard_error():
    values, _ = _scored(9, 60, 1)
    drawn = resampled_means([(value, 1) for value in values], 3, 4000)
    assert numpy.std(drawn) == pytest.approx(numpy.std(values) / len(values) ** 0.5, rel=0.05)


def test_duplicate_rows_add_no_evidence():
    values, groups = _scored(5, 25, 1)
    once, thrice = bootstrap(values, groups, 1), bootstrap(values * 3, groups * 3, 1)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), rel=0, abs=1e-9)
    alone = bootstrap(values * 3, range(3 * len(values)), 1)
    assert alone.high - alone.low < 0.8 * (once.high - once.low)


def test_equal_values_or_single_group_give_zero_width():
    assert bootstrap([2.0] * 8, range(8), 1).low == bootstrap([2.0] * 8, range(8), 1).high == 2.0
    single = bootstrap([1.0, 2.0, 6.0], ["a"] * 3, 1)
    assert (single.low, single.value, single.high, single.groups) == (3.0, 3.0, 3.0, 1)


@pytest.mark.parametrize(("values", "groups"), [([], []), ([1.0], [])])
def test_empty_values_are_refused(values, groups):
    with pytest.raises(ValueError, match="cannot bootstrap"):
        bootstrap(values, groups, 1)


def test_interval_covers_clustered_mean_in_simulation():
    random, covered = Random(13), 0
    for trial in range(300):
        values, groups = [], []
        for group in range(30):
            centre = random.gauss(0.4, 1)
            for _ in range(random.randint(1, 4)):
                values.append(centre + random.gauss(0, 0.3))
                groups.append(group)
        interval = bootstrap(values, groups, trial, 300)
        covered += interval.low <= 0.4 <= interval.high
    assert 0.88 <= covered / 300 <= 0.98
