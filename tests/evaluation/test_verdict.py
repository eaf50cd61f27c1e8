import re

import pytest
from exact_tests import sign_test

from mlxtune.evaluation.compare import EvaluationComparison
from mlxtune.evaluation.verdict import apply_holm, compare, compare_scores
from mlxtune.present.blocks import Facts
from mlxtune.present.comparison import comparison_document
from mlxtune.present.labels import signed_points
from mlxtune.present.verdict import change_sentence


def _compared(both: int, broken: int, fixed: int, neither: int):
    rows = [(True, True)] * both + [(True, False)] * broken + [(False, True)] * fixed + [(False, False)] * neither
    return compare("contract", "base", "tuned", rows)


@pytest.mark.parametrize(
    ("table", "word"),
    [((10, 1, 40, 9), "better"), ((10, 40, 1, 9), "worse"), ((10, 5, 6, 9), "cannot_tell"), ((0, 0, 0, 60), "cannot_tell")],
)
def test_outcome_follows_evidence(table, word):
    assert _compared(*table).outcome == word


@pytest.mark.parametrize(
    ("share", "points"), [(0.825 - 0.8, "+2.5"), (-0.025, "−2.5"), (0.0004, "0.0"), (-0.0004, "0.0"), (0.0, "0.0"), (1.0, "+100.0")]
)
def test_points_have_a_sign_and_as_many_decimals_as_rates(share, points):
    assert signed_points(share) == points


def test_change_needs_interval_and_exact_test_to_agree():
    for unchanged in ((0, 0), (0, 10), (5, 10), (30, 10)):
        for broken in range(0, 12, 2):
            for fixed in range(0 if any(unchanged) or broken else 2, 14, 2):  # there is a row
                comparison = _compared(unchanged[0], broken, fixed, unchanged[1])
                one_side = comparison.low > 0 or comparison.high < 0
                assert (comparison.outcome != "cannot_tell") == (comparison.p < 0.05 and one_side)
                if comparison.outcome == "better":
                    assert fixed > broken
                if comparison.outcome == "worse":
                    assert fixed < broken


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ((10, 1, 40, 9), r"Whole contract: \+65\.0 points versus base \(95% interval: \+\d+\.\d to \+\d+\.\d\)\."),
        ((10, 40, 1, 9), r"Whole contract: −65\.0 points versus base \(95% interval: −\d+\.\d to −\d+\.\d\)\."),
        ((28, 2, 9, 1), r"Whole contract: \+17\.5 points versus base \(95% interval: \+1\.1 to \+33\.5, but p = 0\.065\)\."),
    ],
)
def test_sentence_states_change_interval_and_disagreement(table, text):
    assert re.fullmatch(text, change_sentence(_compared(*table)))


@pytest.mark.parametrize(
    ("table", "grouped", "is_told"), [((10, 5, 8, 9), False, True), ((10, 5, 8, 9), True, False), ((10, 5, 5, 9), False, False)]
)
def test_required_rows_are_told_for_independent_rows_that_changed(table, grouped, is_told):
    result = EvaluationComparison("one", "two", 32, (_compared(*table),), grouped)
    assert any(isinstance(block, Facts) for block in comparison_document(result)) == is_told


def test_empty_comparison_is_refused():
    with pytest.raises(ValueError, match="hits must be between"):
        compare("contract", "base", "tuned", [])


def _named(metric: str, broken: int, fixed: int):
    return compare(metric, "base", "tuned", [(True, False)] * broken + [(False, True)] * fixed + [(True, True)] * 20)


def test_side_metrics_are_corrected_separately_from_headline():
    items = [_named("json", 1, 9), _named("schema", 2, 12), _named("contract", 1, 9)]
    corrected = apply_holm(items, lambda item: item.metric == "contract")
    assert [item.p for item in corrected] == pytest.approx([sign_test(9, 1), sign_test(12, 2), sign_test(9, 1)])
    assert [item.adjusted for item in corrected] == pytest.approx([2 * sign_test(12, 2), 2 * sign_test(12, 2), sign_test(9, 1)])
    assert [item.outcome for item in corrected] == ["better", "better", "better"]


def test_scores_count_gains_losses_and_ties():
    scores = [(1, 3)] * 12 + [(4, 3)] * 2 + [(2, 2)] * 6
    comparison = compare_scores("voice", "base", "tuned", scores, range(20))
    assert (comparison.rose, comparison.fell, comparison.tied) == (12, 2, 6)
    assert comparison.change == pytest.approx((24 - 2) / 20)
    assert comparison.p == sign_test(12, 2)
    assert comparison.outcome == "better"
    assert comparison.low < comparison.change < comparison.high


def test_few_scores_do_not_decide_and_lower_scores_are_worse():
    assert compare_scores("voice", "base", "tuned", [(1, 3)] * 4, range(4)).outcome == "cannot_tell"
    swapped = compare_scores("voice", "base", "tuned", [(3, 1)] * 14, range(14))
    assert swapped.outcome == "worse"
