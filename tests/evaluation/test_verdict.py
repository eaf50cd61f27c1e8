from __future__ import annotations

import pytest

from mlxtune.evaluation.statistics import Paired
from mlxtune.evaluation.verdict import compare, sentence


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


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rate"):
        compare("contract", "base", "tuned", [])
