"""Compare power calculations with full enumeration in scipy and with reference values."""

import itertools
import math

import numpy
import pytest
from exact_tests import mcnemar
from scipy import stats

from mlxtune.evaluation.statistics.intervals import PairedCounts
from mlxtune.evaluation.statistics.significance import detectable_gain, detectable_preference, mcnemar_power, needed_rows
from mlxtune.evaluation.verdict import BestBaseline
from mlxtune.present.labels import detectable_gain_fact


def _enumerated(rows: int, fixed: float, broken: float) -> float:
    law = stats.multinomial(rows, [fixed, broken, 1 - fixed - broken])
    changes = ((up, down) for up in range(rows + 1) for down in range(min(up, rows + 1 - up)))
    return law.pmf([(up, down, rows - up - down) for up, down in changes if mcnemar(down, up) < 0.05]).sum()


@pytest.mark.parametrize(
    ("rows", "fixed", "broken"), [(6, 0.9, 0.0), (20, 0.4, 0.1), (45, 0.25, 0.05), (60, 0.1, 0.1), (30, 0.0, 0.2)]
)
def test_power_matches_full_enumeration(rows, fixed, broken):
    assert mcnemar_power(rows, fixed, broken) == pytest.approx(_enumerated(rows, fixed, broken), rel=0, abs=1e-9)


def test_power_without_change_is_below_alpha():
    for rows in (5, 40, 300):
        assert mcnemar_power(rows, 0.2, 0.2) < 0.025
        assert mcnemar_power(rows, 0.0, 0.0) == 0.0
    assert mcnemar_power(0, 0.5, 0.1) == 0.0


@pytest.mark.parametrize("count", [1990, 2010, 6000])
def test_approximation_for_many_rows_is_close_to_exact(count):
    for wins in (0.51, 0.53, 0.56):
        least = next(k for k in range(count // 2, count) if 2 * stats.binom.sf(k - 1, count, 0.5) < 0.05)
        exact = stats.binom.sf(least - 1, count, wins)
        assert mcnemar_power(count, wins, 1 - wins) == pytest.approx(exact, abs=0.01)


def test_detectable_change_is_first_with_enough_power():
    for rows, broken in itertools.product([12, 80, 200], [0.0, 0.05]):
        rise = detectable_gain(rows, broken)
        assert mcnemar_power(rows, rise + broken, broken) >= 0.8 > mcnemar_power(rows, rise - 0.01 + broken, broken)


@pytest.mark.parametrize(
    ("rows", "value", "note"),
    [
        (80, "≥ 10 points", "17 if 5% of rows regress; 80 rows, 1 baseline, 80% power"),
        (5, "no change", "5 rows: too few"),
        (6, "≥ 97 points", "6 rows, 1 baseline, 80% power"),
        (2000, "≥ 1 point", "3 if 5% of rows regress; 2,000 rows, 1 baseline, 80% power"),
    ],
)
def test_power_is_a_fact(rows, value, note):
    fact = detectable_gain_fact(rows, 1, 0.05)
    assert (fact.value, fact.note) == (value, note)


def test_power_accounts_for_the_choice_of_the_best_baseline_and_tuned_arm():
    """Simulate six baselines that are equally good and two tuned arms of which one is better by the detectable gain."""
    rows, level = 72, 0.05 / 2
    gain = detectable_gain(rows, 0.0, 6, level)
    assert gain > detectable_gain(rows)
    random, better, trials = numpy.random.default_rng(8), 0, 200
    for _ in range(trials):
        base, fixed = random.random(rows) < 0.5, random.random(rows) < 2 * gain  # of the rows that fail
        failing = [~base & (random.random(rows) < 0.02) for _ in range(6)]
        baselines = {str(index): (base | luck).tolist() for index, luck in enumerate(failing)}
        tuned = (base | fixed | numpy.logical_or.reduce(failing)).tolist()
        rival = max(baselines, key=lambda name: sum(baselines[name]))
        better += BestBaseline("", "tuned", tuned, baselines, rival, others=[[False] * rows]).comparison().outcome == "better"
    assert better / trials > 0.8


def test_detectable_preference_matches_sign_test():
    for votes in (6, 20, 40, 200):
        share = detectable_preference(votes)
        least = min(
            wins for wins in range(votes // 2, votes + 1) if stats.binomtest(wins, votes).pvalue < 0.05 and 2 * wins > votes
        )
        assert stats.binom.sf(least - 1, votes, share) >= 0.8 > stats.binom.sf(least - 1, votes, share - 0.01)
    assert detectable_preference(5) is None


def test_required_rows_match_connor():
    paired = PairedCounts(40, 10, 20, 30)
    change, discordant = 0.1, 0.3
    z, power = stats.norm.isf(0.025), stats.norm.isf(0.2)
    expected = ((z * math.sqrt(discordant) + power * math.sqrt(discordant - change**2)) / change) ** 2
    assert needed_rows(paired) == math.ceil(expected)
    assert needed_rows(paired, 0.05 / 6) > needed_rows(paired)


def test_required_rows_ignore_direction_and_need_change():
    assert needed_rows(PairedCounts(40, 10, 20, 30)) == needed_rows(PairedCounts(40, 20, 10, 30))
    assert needed_rows(PairedCounts(40, 10, 10, 30)) is None
    assert needed_rows(PairedCounts(0, 0, 9, 0)) >= 1
