"""Compare the test against the best of several baselines with direct computations, by brute force, and in simulation."""

import itertools
import math
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from typing import Any

import pytest
from evaluation_files import scored_arm
from exact_tests import mcnemar
from exhaustive import EXHAUSTIVE, cases
from scipy import stats

from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import PASS, Score
from mlxtune.evaluation.statistics.significance import level_for_look
from mlxtune.evaluation.verdict import BestBaseline, compare
from mlxtune.present.report import comparison_tables
from mlxtune.present.verdict import conclusion_facts, holdout_facts, verdict_text


def _test(tuned, *baselines, **more) -> BestBaseline:
    named = {f"base{index}": [bool(value) for value in row] for index, row in enumerate(baselines)}
    rival = max(reversed(named), key=lambda name: sum(named[name]))
    return BestBaseline("contract", "tuned", [bool(value) for value in tuned], named, rival, **more)


def test_better_means_better_than_each_baseline_and_worse_than_any_with_fewer_chances():
    """Both p-values and all limits follow from the pairs, computed with scipy."""
    random = Random(3)
    for _ in range(60):
        rows, count, arms = 40, random.randint(1, 5), random.randint(1, 3)
        tuned = [random.random() < 0.5 for _ in range(rows)]
        others = [[random.random() < random.choice([0.2, 0.5, 0.8]) for _ in range(rows)] for _ in range(count)]
        item = _test(tuned, *others, others=[[False] * rows] * (arms - 1)).comparison()
        fixed = [sum(two and not one for one, two in zip(other, tuned, strict=True)) for other in others]
        broken = [sum(one and not two for one, two in zip(other, tuned, strict=True)) for other in others]
        p = [stats.binomtest(a, a + b).pvalue if a + b else 1.0 for a, b in zip(fixed, broken, strict=True)]
        beats_all = all(a > b and value * arms < 0.05 for a, b, value in zip(fixed, broken, p, strict=True))
        beaten = any(a < b and value * count < 0.05 for a, b, value in zip(fixed, broken, p, strict=True))
        assert (item.outcome == "better", item.outcome == "worse") == (beats_all, beaten)
        pairs = [list(zip(other, tuned, strict=True)) for other in others]
        assert item.low == min(compare("contract", "", "", pair, level=0.05 / arms).low for pair in pairs)
        assert item.high == min(compare("contract", "", "", pair, level=0.05 / count).high for pair in pairs)
        assert item.low <= item.change <= item.high


def test_lower_level_at_a_later_look_widens_the_interval_and_is_shown():
    tuned, base = [True] * 30 + [False] * 10, [True] * 21 + [False] * 9 + [True] * 2 + [False] * 8
    first, fourth = (_test(tuned, base, level=level_for_look(look)).comparison() for look in (1, 4))
    assert (first.p, first.outcome) == (mcnemar(2, 9), "cannot_tell")
    assert fourth.low < first.low < first.high < fourth.high
    arms = [scored_arm(name, [{"contract": PASS if one else Score(False, "x", "")} for one in passed]) for name, passed in (("base", [False] * 40), ("tuned", [True] * 7 + [False] * 33))]  # fmt: skip
    once, again = (build({"rows": 40, "holdout": {"look": look}}, arms) for look in (1, 4))
    assert (once.outcome, once.facts["level"]) == ("better", 0.05)
    assert (again.outcome, again.facts["level"], again.verdict.headline.level) == ("cannot_tell", 0.05 / 12, 0.05 / 12)
    assert "(95% interval:" in verdict_text(once.verdict)
    assert "(99.58% interval:" in verdict_text(again.verdict)


@pytest.mark.parametrize("groups", [range(8), [0, 0, 1, 1, 2, 2, 3, 4]], ids=["rows", "groups"])
def test_nearness_is_the_smallest_number_of_changed_answers(groups):
    """Change every set of answers, as an independent search."""
    random, found = Random(5), 0
    for _ in range(12):
        others = [[random.random() < 0.2 for _ in range(8)] for _ in range(random.randint(1, 2))]
        tuned = [random.random() < 0.9 for _ in range(8)]
        test = _test(tuned, *others, groups=groups, level=0.2)
        outcome = test.comparison().outcome
        sizes = [
            len(changed)
            for count in range(1, 9)
            for changed in itertools.combinations(range(8), count)
            if _test([one != (at in changed) for at, one in enumerate(tuned)], *others, groups=groups, level=0.2).comparison().outcome != outcome
        ]  # fmt: skip
        directions = {"better": (True,), "worse": (False,)}.get(outcome, (True, False))
        nearness = test.nearness(lambda other, outcome=outcome: other != outcome, directions)
        if len(set(groups)) == 8:
            assert nearness == min(sizes, default=None)
        elif nearness:
            assert nearness in sizes
        found += nearness == min(sizes, default=None)
    assert found >= 10


def _arms(*passes: tuple[str, int]):
    return [
        scored_arm(name, [{"contract": PASS if at < count else Score(False, "x", "")} for at in range(40)])
        for name, count in passes
    ]


def test_report_says_how_many_answers_decide_and_which_baselines_count():
    report = build({"rows": 40}, _arms(("base", 2), ("base+prompt", 20), ("tuned", 30)))
    assert (report.outcome, report.verdict.nearness) == ("better", 3)  # 10 fixed and 2 broken are significant
    fewer = build({"rows": 40}, _arms(("base", 2), ("base+prompt", 20), ("tuned", 27)))
    assert (fewer.outcome, fewer.verdict.nearness) == ("better", 1)
    fact = next(fact for fact in conclusion_facts(report) if fact.label == "decided by")
    assert (fact.value, fact.note) == ("3 of 40 answers", "of tuned")
    assert comparison_tables(report)[0].note.endswith("; whole contract: over the best of 2 baselines")


def test_with_several_tuned_arms_as_many_rows_decide_as_turn_the_verdict_if_all_of_them_change():
    def built(lost: int):
        passed = {"base": range(20), "tuned": range(lost, 32), "tuned+grammar": range(lost, 32)}
        return build(
            {"rows": 40},
            [scored_arm(name, [{"contract": PASS if at in own else Score(False, "x", "")} for at in range(40)]) for name, own in passed.items()],
        )  # fmt: skip

    nearness = built(0).verdict.nearness
    assert built(nearness - 1).outcome == "better"
    assert built(nearness).outcome == "cannot_tell"
    fact = next(fact for fact in conclusion_facts(built(0)) if fact.label == "decided by")
    assert (fact.value, fact.note) == (f"{nearness} of 40 answers", "of each tuned arm")


def test_few_groups_are_a_warning():
    arms, groups = _arms(("base", 2), ("tuned", 30)), [at // 4 for at in range(40)]
    facts = {fact.label: fact for fact in holdout_facts(build({"rows": 40}, arms, groups))}
    assert (facts["few groups"].value, facts["few groups"].mark) == ("10.0 effective", "warning")
    assert "few groups" not in {fact.label for fact in holdout_facts(build({"rows": 40}, arms))}


def _error_rates() -> Any:
    spec = spec_from_file_location("error_rates", Path(__file__).parents[2] / "benchmarks" / "error_rates.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROWS, GROUP_SIZES, BASELINES = (20, 43, 72, 150), (1, 3, 30), (1, 3, 6, 7)
SETTINGS = [  # every pair of values
    (rows, GROUP_SIZES[(one - other) % 3], baselines) for one, rows in enumerate(ROWS) for other, baselines in enumerate(BASELINES)
]


@pytest.mark.slow
@pytest.mark.parametrize("setting", cases(SETTINGS, "(72, 1, 6)"))
def test_verdicts_are_wrong_as_rarely_as_stated(setting):
    """A comparison with the luckiest of six equal baselines alone says *worse* about 7.5% of the time."""
    rows, size, baselines = setting
    trials = 600 if EXHAUSTIVE else 300
    (_, (*_, better, worse, covered, alone)) = _error_rates().verdicts(trials, [rows], [size], [baselines])
    most = 0.025 * trials + 3 * math.sqrt(0.025 * trials)
    assert better.count <= most
    assert worse.count <= most
    assert covered.count >= 0.95 * trials - 3 * math.sqrt(0.05 * trials)
    if setting == (72, 1, 6):
        assert alone.count > most


@pytest.mark.slow
@pytest.mark.exhaustive
def test_many_looks_contain_a_false_better_at_most_one_time_in_twenty():
    _, *rows = _error_rates().looks(1000)
    for *_, spent, always in rows:
        assert spent.count <= 0.05 * spent.trials + 3 * math.sqrt(0.05 * spent.trials)
        assert always.count > spent.count
