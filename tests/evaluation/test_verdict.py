from __future__ import annotations

import pytest

from mlxtune.evaluation.statistics import Paired, sign_test
from mlxtune.evaluation.verdict import compare, compare_scores, correct, sentence


def _compared(both: int, broken: int, fixed: int, neither: int):
    rows = [(True, True)] * both + [(True, False)] * broken + [(False, True)] * fixed + [(False, False)] * neither
    return compare("contract", "base", "tuned", rows)


def test_table_counts_each_row_once():
    assert _compared(3, 1, 4, 2).paired == Paired(both=3, broken=1, fixed=4, neither=2)


@pytest.mark.parametrize(
    ("table", "word"),
    [((10, 1, 40, 9), "better"), ((10, 40, 1, 9), "worse"), ((10, 5, 6, 9), "cannot tell"), ((0, 0, 0, 60), "cannot tell"), ((0, 0, 3, 0), "cannot tell")],
)  # fmt: skip
def test_word_follows_the_evidence(table, word):
    assert _compared(*table).word == word


def test_change_counts_only_when_interval_and_exact_test_agree():
    for both in (0, 5, 30):
        for broken in range(0, 12, 2):
            for fixed in range(0, 14, 2):
                found = _compared(both, broken, fixed, 10)
                one_side = found.low > 0 or found.high < 0
                assert (found.word != "cannot tell") == (found.p < 0.05 and one_side)
                if found.word == "better":
                    assert fixed > broken
                if found.word == "worse":
                    assert fixed < broken


def test_better_says_the_rise_and_its_interval_in_points():
    found = _compared(10, 1, 40, 9)
    low, high = round(100 * found.low), round(100 * found.high)
    assert sentence(found, "whole contract") == f"Better. Whole contract rose by 65 points, between {low} and {high}, over base."
    assert low < 65 < high


def test_worse_says_the_fall_as_positive_points_small_end_first():
    found = _compared(10, 40, 1, 9)
    low, high = round(-100 * found.high), round(-100 * found.low)
    assert sentence(found, "valid JSON") == f"Worse. Valid JSON fell by 65 points, between {low} and {high}, against base."
    assert 0 < low < 65 < high


def test_cannot_tell_says_both_ends_with_signs_and_how_many_rows_would_settle_it():
    text = sentence(_compared(10, 5, 8, 9), "valid JSON")
    assert text.startswith("Cannot tell. Valid JSON changed by between −")
    assert " and +" in text
    assert "rows would settle it." in text


def test_no_change_at_all_asks_for_no_number_of_rows():
    assert "settle" not in sentence(_compared(10, 5, 5, 9), "valid JSON")
    assert "settle" not in sentence(_compared(10, 5, 8, 9), "valid JSON", grouped=True)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rate"):
        compare("contract", "base", "tuned", [])


def _named(metric: str, broken: int, fixed: int):
    return compare(metric, "base", "tuned", [(True, False)] * broken + [(False, True)] * fixed + [(True, True)] * 20)


def test_side_metrics_are_corrected_together_and_the_headline_is_not():
    found = correct([_named("json", 1, 9), _named("schema", 2, 12), _named("contract", 1, 9)])
    assert [item.p for item in found] == pytest.approx([sign_test(9, 1), sign_test(12, 2), sign_test(9, 1)])
    assert [item.adjusted for item in found] == pytest.approx([2 * sign_test(12, 2), 2 * sign_test(12, 2), sign_test(9, 1)])
    assert [item.word for item in found] == ["better", "better", "better"]


def test_one_lucky_metric_among_several_is_not_believed():
    lucky = _named("json", 1, 8)
    assert lucky.word == "better"
    assert correct([lucky, _named("schema", 3, 4), _named("forbidden", 4, 4)])[0].word == "cannot tell"


def test_several_arms_share_the_headline_correction():
    found = correct([_named("contract", 1, 8), _named("contract", 3, 4)])
    assert found[0].adjusted == pytest.approx(2 * found[0].p)


def test_scores_count_rises_falls_and_ties():
    scores = [(1, 3)] * 12 + [(4, 3)] * 2 + [(2, 2)] * 6
    found = compare_scores("voice", "base", "tuned", scores, range(20), 1)
    assert (found.rose, found.fell, found.tied) == (12, 2, 6)
    assert found.change == pytest.approx((24 - 2) / 20)
    assert found.p == sign_test(12, 2)
    assert found.word == "better"
    assert found.low < found.change < found.high


def test_few_scores_do_not_decide_and_falling_ones_are_worse():
    assert compare_scores("voice", "base", "tuned", [(1, 3)] * 4, range(4), 1).word == "cannot tell"
    swapped = compare_scores("voice", "base", "tuned", [(3, 1)] * 14, range(14), 1)
    assert swapped.word == "worse"
