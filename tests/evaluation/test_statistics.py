"""Compare statistics with scipy, statsmodels and published values."""

import itertools
import math
from collections import Counter
from random import Random

import numpy
import pytest
from exhaustive import cases
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from mlxtune.evaluation.statistics.agreement import kappa
from mlxtune.evaluation.statistics.clusters import permutation_p
from mlxtune.evaluation.statistics.intervals import PairedCounts, newcombe, t_quantile, wilson
from mlxtune.evaluation.statistics.significance import holm, level_for_look

CLOSE = {"rel": 0, "abs": 1e-9}


def mcnemar(broken: int, fixed: int) -> float:
    return permutation_p([-1] * broken + [1] * fixed)


@pytest.mark.parametrize("total", [1, 2, 3, 5, 10, 29, 74, 200, 1000, 100_000])
def test_wilson_agrees_with_statsmodels(total):
    for hits in sorted({0, 1, total // 7, total // 3, total // 2, total - 1, total} & set(range(total + 1))):
        assert wilson(hits, total) == pytest.approx(proportion_confint(hits, total, method="wilson"), **CLOSE)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_wilson_at_other_levels(level):
    z = stats.norm.isf((1 - level) / 2)
    for hits in range(13):
        assert wilson(hits, 12, z) == pytest.approx(proportion_confint(hits, 12, alpha=1 - level, method="wilson"), **CLOSE)


def test_wilson_endpoints_are_exactly_zero_and_one():
    for total in range(1, 400):
        assert wilson(0, total)[0] == 0.0
        assert wilson(total, total)[1] == 1.0


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (-1, 5), (6, 5), (1, 0), (0, -3)])
def test_wilson_refuses_invalid_counts(hits, total):
    with pytest.raises(ValueError, match="hits must be between"):
        wilson(hits, total)
    with pytest.raises(ValueError, match="hits must be between"):
        newcombe(PairedCounts(0, 0, 0, 0))


def test_mcnemar_agrees_with_scipy_and_statsmodels():
    for broken, fixed in itertools.product([0, 1, 2, 3, 5, 8, 13, 40, 90], repeat=2):
        ours = mcnemar(broken, fixed)
        if broken + fixed:
            assert ours == pytest.approx(stats.binomtest(broken, broken + fixed, 0.5).pvalue, **CLOSE)
            assert ours == pytest.approx(sm_mcnemar([[11, broken], [fixed, 7]], exact=True).pvalue, **CLOSE)
        assert 0 < ours <= 1
        assert ours == mcnemar(fixed, broken)
    assert mcnemar(0, 0) == 1.0


def test_mcnemar_does_not_overflow_on_many_rows():
    assert mcnemar(2000, 2200) == pytest.approx(stats.binomtest(2000, 4200, 0.5).pvalue, rel=1e-9)
    assert 0 <= mcnemar(0, 5000) < 1e-300


@pytest.mark.parametrize(
    ("table", "low", "change", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:2635, method 10: both, first only, second only, neither.
        ((36, 12, 2, 0), 0.0569, 0.2000, 0.3404),
        ((20, 12, 2, 16), 0.0562, 0.2000, 0.3292),
        # Airway hyper-responsiveness, in Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850.
        ((1, 1, 7, 12), -0.507, -0.286, -0.026),
    ],
)
def test_newcombe_matches_published_figures(table, low, change, high):
    both, first, second, neither = table
    got = newcombe(PairedCounts(both, broken=second, fixed=first, neither=neither))  # the papers report first − second
    digits = 4 if low > 0 else 3
    assert [round(value, digits) for value in got] == [low, change, high]


def _independent_newcombe(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Compute Newcombe's method 10 from statsmodels' Wilson limits, for first arm minus second arm."""
    n = a + b + c + d
    (l1, u1), (l2, u2) = (proportion_confint(hits, n, method="wilson") for hits in (a + b, a + c))
    p1, p2 = (a + b) / n, (a + c) / n
    margins = math.prod([a + b, c + d, a + c, b + d])
    cross = a * d - b * c
    corrected = cross - n / 2 if cross > n / 2 else 0 if cross >= 0 else cross
    phi = corrected / math.sqrt(margins) if margins else 0.0
    down = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    up = math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return p1 - p2 - down, p1 - p2 + up


def test_newcombe_agrees_with_independent_computation():
    for a, b, c, d in itertools.product([0, 1, 4, 11, 50], repeat=4):
        if a + b + c + d:
            low, change, high = newcombe(PairedCounts(a, broken=c, fixed=b, neither=d))
            assert (low, high) == pytest.approx(_independent_newcombe(a, b, c, d), **CLOSE)
            assert change == pytest.approx((b - c) / (a + b + c + d), **CLOSE)
            assert -1 <= low <= change <= high <= 1


@pytest.mark.parametrize(
    "table", [(9, 0, 0, 0), (0, 0, 0, 9), (0, 9, 0, 0), (0, 0, 9, 0), (5, 0, 0, 4), (0, 5, 4, 0), (1, 0, 0, 0)]
)
def test_degenerate_tables_have_nonzero_width(table):
    low, change, high = newcombe(PairedCounts(*table))
    assert -1 <= low <= change <= high <= 1
    assert high - low > 0.05
    assert change == pytest.approx((table[2] - table[1]) / sum(table), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("size", cases([1, 3, 8], "3"))
def test_holm_agrees_with_statsmodels(size):
    random = Random(size)
    for _ in range(4):
        values = [random.choice([random.random(), random.random() / 50, 0.01, 0.0, 1.0]) for _ in range(size)]
        assert holm(values) == pytest.approx(list(multipletests(values, method="holm")[1]), **CLOSE)
    assert holm([]) == []


def test_significant_change_interval_excludes_zero():
    for broken, fixed in itertools.product(range(12), range(0, 40, 3)):
        for both, neither in itertools.product([0, 7, 30], repeat=2):
            if mcnemar(broken, fixed) < 0.05:
                low, _, high = newcombe(PairedCounts(both, broken, fixed, neither))
                assert low > 0 or high < 0


def test_levels_of_all_looks_spend_five_percent_on_each_side():
    assert [level_for_look(look) for look in (1, 2, 3, 4)] == pytest.approx([0.05, 0.025, 0.05 / 6, 0.05 / 12])
    assert sum(map(level_for_look, range(1, 10_000))) == pytest.approx(0.1, abs=1e-5)


def test_t_quantiles_agree_with_scipy():
    for freedom in (1, 1.3, 2, 2.7, 4, 11.5, 80, 700, 5000):
        assert t_quantile(freedom) == pytest.approx(stats.t.isf(0.025, freedom), rel=1e-3)
    assert t_quantile(9, 0.05 / 7) == pytest.approx(stats.t.isf(0.025 / 7, 9), rel=1e-3)


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
        assert ours.value == pytest.approx(theirs.kappa, **CLOSE)
        assert ours.low == pytest.approx(max(-1.0, theirs.kappa_low), **CLOSE)
        assert ours.high == pytest.approx(min(1.0, theirs.kappa_upp), **CLOSE)


def test_kappa_is_one_for_agreement_and_undefined_for_single_category():
    perfect = kappa([("a", "a"), ("b", "b")] * 9)
    assert (perfect.low, perfect.value, perfect.high) == pytest.approx((1, 1, 1), **CLOSE)
    assert kappa([("a", "a")] * 9) is None
    assert kappa([]) is None
