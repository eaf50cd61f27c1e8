"""Power against full enumeration with scipy, and against the figures of the plan."""

from __future__ import annotations

import itertools
import math

import pytest
from scipy import stats

from mlxtune.evaluation.power import detectable, detectable_preference, expectation, mcnemar_power, needed_rows
from mlxtune.evaluation.statistics import Paired, mcnemar


def _enumerated(rows: int, fixed: float, broken: float) -> float:
    law = stats.multinomial(rows, [fixed, broken, 1 - fixed - broken])
    return sum(
        law.pmf([up, down, rows - up - down])
        for up in range(rows + 1)
        for down in range(rows + 1 - up)
        if up > down and mcnemar(down, up) < 0.05
    )


@pytest.mark.parametrize(
    ("rows", "fixed", "broken"), [(6, 0.9, 0.0), (20, 0.4, 0.1), (45, 0.25, 0.05), (60, 0.1, 0.1), (30, 0.0, 0.2)]
)
def test_power_is_the_sum_over_every_table(rows, fixed, broken):
    assert mcnemar_power(rows, fixed, broken) == pytest.approx(_enumerated(rows, fixed, broken), rel=0, abs=1e-9)


def test_power_without_change_stays_below_the_level_and_none_is_zero():
    for rows in (5, 40, 300):
        assert mcnemar_power(rows, 0.2, 0.2) < 0.025
        assert mcnemar_power(rows, 0.0, 0.0) == 0.0
    assert mcnemar_power(0, 0.5, 0.1) == 0.0


@pytest.mark.parametrize(("fixed", "broken"), [(-0.1, 0.0), (0.0, -0.1), (0.7, 0.4)])
def test_impossible_shares_are_refused(fixed, broken):
    with pytest.raises(ValueError, match="cannot be"):
        mcnemar_power(10, fixed, broken)


@pytest.mark.parametrize("count", [1990, 2010, 6000])
def test_many_decided_rows_differ_little_from_the_exact_sum(count):
    for wins in (0.51, 0.53, 0.56):
        least = next(k for k in range(count // 2, count) if 2 * stats.binom.sf(k - 1, count, 0.5) < 0.05)
        exact = stats.binom.sf(least - 1, count, wins)
        assert mcnemar_power(count, wins, 1 - wins) == pytest.approx(exact, abs=0.01)


def test_detectable_is_the_first_point_with_enough_power():
    for rows, broken in itertools.product([12, 80, 200], [0.0, 0.05]):
        rise = detectable(rows, broken)
        assert rise is not None
        assert mcnemar_power(rows, rise + broken, broken) >= 0.8 > mcnemar_power(rows, rise - 0.01 + broken, broken)


def test_eighty_rows_show_what_the_plan_says():
    assert expectation(80) == "80 rows: 10 points if nothing breaks, 17 if 5 % do."


def test_few_rows_show_less_or_nothing():
    assert expectation(5) == "5 rows: too few to show any change."
    assert expectation(1) == "1 row: too few to show any change."
    assert expectation(6) == "6 rows: 97 points if nothing breaks."
    assert expectation(2000).startswith("2,000 rows: 1 point if nothing breaks")


def test_detectable_preference_is_that_of_the_sign_test():
    for votes in (6, 20, 40, 200):
        share = detectable_preference(votes)
        assert share is not None
        least = min(
            wins for wins in range(votes // 2, votes + 1) if stats.binomtest(wins, votes).pvalue < 0.05 and 2 * wins > votes
        )
        assert stats.binom.sf(least - 1, votes, share) >= 0.8 > stats.binom.sf(least - 1, votes, share - 0.01)
    assert detectable_preference(5) is None


def test_needed_rows_follow_connor():
    paired = Paired(40, 10, 20, 30)
    change, discordant = 0.1, 0.3
    z, power = stats.norm.isf(0.025), stats.norm.isf(0.2)
    expected = ((z * math.sqrt(discordant) + power * math.sqrt(discordant - change**2)) / change) ** 2
    assert needed_rows(paired) == math.ceil(expected)
    assert needed_rows(paired, 0.9) > needed_rows(paired)


def test_needed_rows_do_not_depend_on_the_direction_and_need_a_change():
    assert needed_rows(Paired(40, 10, 20, 30)) == needed_rows(Paired(40, 20, 10, 30))
    assert needed_rows(Paired(40, 10, 10, 30)) is None
    assert needed_rows(Paired(0, 0, 9, 0)) >= 1
