"""Compare cluster statistics with statsmodels' clustered errors, full enumeration of sign flips, and the ungrouped results."""

import itertools
from random import Random

import numpy
import pytest
import statsmodels.api as sm
from exact_tests import mcnemar
from scipy import stats

from mlxtune.evaluation.statistics.clusters import cluster_mean, effective_groups, effective_n, permutation_p
from mlxtune.evaluation.statistics.intervals import PairedCounts, newcombe, wilson
from mlxtune.evaluation.verdict import compare


@pytest.mark.parametrize(("seed", "clusters", "most"), [(1, 6, 3), (2, 30, 2), (3, 25, 6), (4, 12, 9)])
def test_effective_n_matches_statsmodels_clustered_errors(seed, clusters, most):
    random = Random(seed)
    groups = [group for group in range(clusters) for _ in range(random.randint(1, most))]
    lean = [random.random() for _ in range(clusters)]
    values = [float(random.random() < lean[group]) for group in groups]
    ones = numpy.ones(len(values))
    clustered = sm.OLS(values, ones).fit(cov_type="cluster", cov_kwds={"groups": numpy.array(groups)}).bse[0] ** 2
    alone = sm.OLS(values, ones).fit().bse[0] ** 2
    sizes = numpy.bincount(groups)
    largest = (sizes**2).sum() / len(values)
    count = len(values) / largest
    assert effective_groups(groups) == pytest.approx(count)
    design = min(largest, max(1.0, ((count - 1) * clustered / alone + largest) / count))
    parts = sizes * (1 + (sizes - 1) * (design - 1) / (largest - 1))
    freedom = max(1.0, parts.sum() ** 2 / (parts**2).sum() - 1)
    for level in (0.05, 0.05 / 7):
        ratio = stats.t.isf(level / 2, len(values) - 1) / stats.t.isf(level / 2, freedom)
        expected = max(count, len(values) / design * ratio**2)
        assert effective_n(values, groups, level) == pytest.approx(expected, rel=2e-3)


def test_duplicate_rows_do_not_increase_effective_n():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert effective_n(values, range(5)) == 5
    assert effective_n(values * 3, [*range(5)] * 3) == pytest.approx(5)
    assert effective_n([1.0] * 6, [0, 0, 1, 1, 2, 2]) == 3  # without variation the worst case is assumed
    assert effective_n([1.0, 0.0, 1.0], [0, 0, 0]) == 1


def test_permutation_p_matches_enumeration():
    random = Random(5)
    for _ in range(30):
        nets = [random.randint(-3, 3) for _ in range(random.randint(0, 9))]
        sums = [
            sum(sign * size for sign, size in zip(signs, nets, strict=True))
            for signs in itertools.product((1, -1), repeat=len(nets))
        ]
        expected = sum(abs(value) >= abs(sum(nets)) for value in sums) / len(sums)
        assert permutation_p(nets) == pytest.approx(expected, abs=1e-12)


PASSED = [(False, True)] * 8 + [(True, True)] * 20 + [(False, False)] * 10


def test_ungrouped_comparison_equals_mcnemar_and_newcombe():
    comparison = compare("contract", "base", "tuned", PASSED, range(len(PASSED)))
    paired = PairedCounts(20, 0, 8, 10)
    assert (comparison.low, comparison.change, comparison.high) == newcombe(paired)
    assert comparison.p == pytest.approx(mcnemar(0, 8))
    assert comparison == compare("contract", "base", "tuned", PASSED)


def test_duplicate_rows_do_not_change_verdict():
    assert compare("contract", "base", "tuned", PASSED).outcome == "better"
    copied = compare(
        "contract", "base", "tuned", PASSED, [0] * 8 + list(range(1, 31))
    )  # the eight fixed rows are copies of one row
    assert copied.paired == PairedCounts(20, 0, 8, 10)
    assert (copied.outcome, copied.p) == ("cannot_tell", 1.0)
    assert copied.low < 0 < copied.high


def test_intervals_ignore_duplicate_rows():
    once = compare("contract", "base", "tuned", PASSED)
    thrice = compare("contract", "base", "tuned", PASSED * 3, [*range(len(PASSED))] * 3)
    assert (thrice.low, thrice.change, thrice.high) == pytest.approx((once.low, once.change, once.high))
    assert thrice.p == pytest.approx(once.p)
    assert wilson(3 * 7, 3 * 20, effective_n=20) == pytest.approx(wilson(7, 20))
    assert newcombe(PairedCounts(60, 3, 24, 30), effective_n=39) == pytest.approx(newcombe(PairedCounts(20, 1, 8, 10)))


def test_clustered_intervals_cover_in_simulation():
    """With correlated rows in groups of up to four, row-based intervals are too narrow; intervals with effective n are not."""
    random = Random(8)
    covered, plainly, draws = 0, 0, 1000
    for _ in range(draws):
        values, groups = [], []
        for group in range(40):
            fate = random.random() < 0.7
            for _ in range(random.randint(1, 4)):
                values.append(fate if random.random() < 0.75 else random.random() < 0.7)
                groups.append(group)
        rows = effective_n([float(value) for value in values], groups)
        for count, limits in enumerate((wilson(sum(values), len(values), effective_n=rows), wilson(sum(values), len(values)))):
            if limits[0] <= 0.7 <= limits[1]:
                covered, plainly = (covered + 1, plainly) if count == 0 else (covered, plainly + 1)
    assert 0.92 <= covered / draws <= 0.98
    assert plainly / draws < 0.9


@pytest.mark.parametrize(("seed", "clusters", "size"), [(1, 6, 3), (2, 30, 1), (3, 12, 5)])
def test_mean_over_groups_matches_statsmodels(seed, clusters, size):
    draws = numpy.random.default_rng(seed)
    groups = numpy.repeat(numpy.arange(clusters), size)
    values = draws.normal(size=clusters)[groups] + draws.normal(size=len(groups))
    kinds = {"cov_type": "cluster", "cov_kwds": {"groups": groups}, "use_t": True}
    low, high = sm.OLS(values, numpy.ones(len(values))).fit(**kinds).conf_int()[0]
    found = cluster_mean(values.tolist(), groups.tolist())
    assert (found.value, found.groups) == (pytest.approx(values.mean()), clusters)
    assert (found.low, found.high) == (pytest.approx(low, rel=2e-3), pytest.approx(high, rel=2e-3))


def test_intervals_of_means_cover_with_few_groups():
    """Bootstrap intervals (BCa) cover 84% here."""
    draws, covered, trials = numpy.random.default_rng(9), 0, 1000
    groups = numpy.repeat(numpy.arange(5), 4)
    for _ in range(trials):
        found = cluster_mean((draws.normal(size=5)[groups] + draws.normal(size=20)).tolist(), groups.tolist())
        covered += found.low <= 0 <= found.high
    assert covered / trials > 0.93
