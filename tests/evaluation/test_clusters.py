"""Against statsmodels' clustered errors, all sign flips one by one, and what the same figures are without groups."""

from __future__ import annotations

import itertools
from random import Random

import numpy
import pytest
import statsmodels.api as sm

from mlxtune.evaluation.clusters import flips, net, worth
from mlxtune.evaluation.statistics import Paired, mcnemar, newcombe, wilson
from mlxtune.evaluation.verdict import compare


@pytest.mark.parametrize(("seed", "clusters", "most"), [(1, 6, 3), (2, 30, 2), (3, 25, 6), (4, 12, 9)])
def test_worth_follows_statsmodels_clustered_errors(seed, clusters, most):
    random = Random(seed)
    groups = [group for group in range(clusters) for _ in range(random.randint(1, most))]
    lean = [random.random() for _ in range(clusters)]
    values = [float(random.random() < lean[group]) for group in groups]
    ones = numpy.ones(len(values))
    clustered = sm.OLS(values, ones).fit(cov_type="cluster", cov_kwds={"groups": numpy.array(groups)}).bse[0] ** 2
    alone = sm.OLS(values, ones).fit().bse[0] ** 2
    most_there_is = sum(groups.count(group) ** 2 for group in range(clusters)) / len(values)
    expected = len(values) / min(most_there_is, max(1.0, clustered / alone))
    assert worth(values, groups) == pytest.approx(expected, rel=1e-9)


def test_rows_of_their_own_are_worth_their_number_and_copies_that_of_their_groups():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert worth(values, range(5)) == 5
    assert worth(values * 3, [*range(5)] * 3) == pytest.approx(5)
    assert worth([1.0] * 6, [0, 0, 1, 1, 2, 2]) == 3  # nothing varies: the worst is taken
    assert worth([1.0, 0.0, 1.0], [0, 0, 0]) == 1
    with pytest.raises(ValueError, match="not of 2 groups"):
        worth(values, [1, 2])


def test_flips_is_the_share_of_all_signs_that_come_as_far():
    random = Random(5)
    for _ in range(30):
        nets = [random.randint(-3, 3) for _ in range(random.randint(0, 9))]
        sums = [
            sum(sign * size for sign, size in zip(signs, nets, strict=True))
            for signs in itertools.product((1, -1), repeat=len(nets))
        ]
        expected = sum(abs(value) >= abs(sum(nets)) for value in sums) / len(sums)
        assert flips(nets) == pytest.approx(expected, abs=1e-12)


def test_flips_of_single_rows_is_mcnemars_exact_test():
    for broken, fixed in itertools.product([0, 1, 2, 5, 13, 40], repeat=2):
        assert flips([-1] * broken + [1] * fixed + [0] * 7) == pytest.approx(mcnemar(broken, fixed), abs=1e-12)
    assert flips([1] * 3000) < 1e-300


def test_rows_of_a_group_come_together():
    assert net([1, -1, 1, 0, 1], ["a", "b", "a", "b", "c"]) == [2, -1, 1]


PASSED = [(False, True)] * 8 + [(True, True)] * 20 + [(False, False)] * 10


def test_without_groups_a_comparison_is_mcnemars_and_newcombes():
    found = compare("contract", "base", "tuned", PASSED, range(len(PASSED)))
    paired = Paired(20, 0, 8, 10)
    assert (found.low, found.change, found.high) == newcombe(paired)
    assert found.p == pytest.approx(mcnemar(0, 8))
    assert found == compare("contract", "base", "tuned", PASSED)


def test_copies_of_a_row_make_no_verdict():
    assert compare("contract", "base", "tuned", PASSED).word == "better"
    copied = compare("contract", "base", "tuned", PASSED, [0] * 8 + list(range(1, 31)))  # the eight fixed rows are one, eight times
    assert copied.paired == Paired(20, 0, 8, 10)
    assert (copied.word, copied.p) == ("cannot tell", 1.0)
    assert copied.low < 0 < copied.high


def test_intervals_of_copies_are_those_of_the_rows_themselves():
    once = compare("contract", "base", "tuned", PASSED)
    thrice = compare("contract", "base", "tuned", PASSED * 3, [*range(len(PASSED))] * 3)
    assert (thrice.low, thrice.change, thrice.high) == pytest.approx((once.low, once.change, once.high))
    assert thrice.p == pytest.approx(once.p)
    assert wilson(3 * 7, 3 * 20, rows=20) == pytest.approx(wilson(7, 20))
    assert newcombe(Paired(60, 3, 24, 30), rows=39) == pytest.approx(newcombe(Paired(20, 1, 8, 10)))


def test_clustered_intervals_cover_in_a_simulation():
    """Groups of up to four rows of which three quarters share one fate: by rows the interval is too narrow, by worth it is not."""
    random = Random(8)
    covered, plainly, draws = 0, 0, 1000
    for _ in range(draws):
        values, groups = [], []
        for group in range(40):
            fate = random.random() < 0.7
            for _ in range(random.randint(1, 4)):
                values.append(fate if random.random() < 0.75 else random.random() < 0.7)
                groups.append(group)
        rows = worth([float(value) for value in values], groups)
        for count, limits in enumerate((wilson(sum(values), len(values), rows=rows), wilson(sum(values), len(values)))):
            if limits[0] <= 0.7 <= limits[1]:
                covered, plainly = (covered + 1, plainly) if count == 0 else (covered, plainly + 1)
    assert 0.92 <= covered / draws <= 0.98
    assert plainly / draws < 0.9
