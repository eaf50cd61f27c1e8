import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.report_builder import metric_rates
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.correct import leaves, score_answer, score_correct, score_fields

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text("ab/~", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3),
    max_leaves=8,
)


def fields(output: object, reference: object, pointer: str = "") -> Score:
    return score_fields(ModelAnswer(json.dumps(output), reference=json.dumps(reference)), pointer)


def test_numbers_of_any_length_are_compared_exactly():
    """Shorter answers, and calls, are cases of the self-test."""
    assert score_answer(ModelAnswer("9" * 5000, reference="9" * 5000)).passed
    assert not score_answer(ModelAnswer("9" * 5000, reference="9" * 4999 + "8")).passed


def test_the_class_of_a_missing_or_added_field_is_its_name():
    """An empty object differs from the reference in the fields that only one of them has."""
    assert fields({}, {"people": "2"}).kind == "/people"
    assert fields({"people": "2"}, {}).kind == "/people"
    assert fields("none", {}).kind == "/"


@pytest.mark.parametrize(
    ("output", "reference", "is_final"),
    [
        ("Sell the te", "Sell the tent.", False),
        ("Sell a tent", "Sell the tent.", True),
        ('{"b": 2, "a', '{"a": 1, "b": 2}', False),
        ('Sure: {"a"', '{"a": 1}', True),
        ("12", "123", False),
        ("", "yes", False),
    ],
)
def test_a_cut_answer_is_classed_as_such_and_final_once_it_differs(output, reference, is_final):
    score = score_answer(ModelAnswer(output, "length", reference))
    assert (score.kind, score.detail, score.is_final) == ("cut_off", "cut off, and the output differs from the reference", is_final)
    assert score_fields(ModelAnswer('{"a": [1', "loop", '{"a": [1]}')).kind == "in_a_loop"
    assert score_answer(ModelAnswer(reference, "length", reference)).passed


@pytest.mark.parametrize(
    ("output", "is_final"),
    [
        ('{"act', False),
        ('{"act": "stay"', False),  # the value may go on: "stay"s
        ('{"act": "stay", "no', True),
        ('{"act": "go", "with": {"a": 1', False),
        ('{"act": "go", "with": {"a": 12', False),
        ('{"act": "go", "with": {"a": 12,', True),
        ('{"act": "go", "with": {"a": 1}', False),
        ('{"act": "go", "with": {"a": 2}', True),
        ('{"act": "go", "with": {"a": 1, "b": [1, 2', False),
        ('{"act": "go", "with": {"a": 1, "b": [2, 2', True),
        ('{"act": "go", "with": {"c": "},", "a": 1', True),
        ('{"note": "{", "act": "go", "with": {"a": 1}, "more": ["', False),
        ('Sure: {"act": "stay", "no', False),
        ('{"act":1,"child":' * 520, False),  # beyond the limits of the parser
        ('{"act":1e9999999999999999999,"b":', False),
    ],
)
def test_a_cut_answer_has_failed_for_good_once_a_complete_field_differs(output, is_final):
    reference = json.dumps({"act": "go", "with": {"a": 1, "b": [1, 2]}})
    assert score_correct(ModelAnswer(output, "length", reference), ("/act", "/with")).is_final is is_final


@given(VALUES, VALUES, st.integers(1, 60))
def test_an_answer_that_equals_the_reference_when_it_ends_has_not_failed_for_good_before(one, two, length):
    text = json.dumps({"a": one, "b": two})
    score = score_fields(ModelAnswer(text[:length], "length", text))
    assert score.passed or not score.is_final


@pytest.mark.parametrize(
    ("output", "reference", "value"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, 1.0),
        ({"a": 1, "b": 3}, {"a": 1, "b": 2}, 0.5),
        ({"a": 1}, {"a": 1, "b": 2}, 2 / 3),
        ({"a": 1, "b": 2, "c": 3}, {"a": 1}, 0.5),
        ({"x": [1, 2, 3]}, {"x": [1, 2]}, 0.8),
        ({"a": True}, {"a": 1}, 0.0),
        ({"a": 1.0}, {"a": 1}, 1.0),
        ({"a": "1"}, {"a": 1}, 0.0),
        ({"a": []}, {"a": {}}, 0.0),
        ({}, {}, 1.0),
        ({"a": {"b": 1}}, {"a/b": 1}, 0.0),
        ({"a": {"0": 1}}, {"a": [1]}, 0.0),
    ],
)
def test_field_f1(output, reference, value):
    score = fields(output, reference)
    assert score.value == pytest.approx(value)
    assert score.passed == (value == 1)
    assert bool(score.kind) == (value != 1)


def test_only_the_part_at_a_pointer_counts():
    output, reference = {"a": 1, "ab": "x", "c": {"d": 1, "e": None}}, {"a": 1, "ab": "y", "c": {"d": 1, "e": None}}
    assert fields(output, reference).value == pytest.approx(3 / 4)
    assert all(fields(output, reference, pointer).passed for pointer in ("/a", "/c", "/c/d", "/c/e"))
    assert fields(output, reference, "/ab").kind == "/ab"
    assert fields({"c": {"d": 1}}, reference, "/c/e").kind == "/c/e"
    for text in (json.dumps(reference), "plain text"):
        assert score_fields(ModelAnswer(text, reference=text), "/absent").kind == "no_reference"


def test_every_part_must_equal_the_reference():
    reference = '{"category": "a", "urgent": true, "price": 2, "reply": "Yes."}'
    parts = ["/category", "/urgent", "/price"]
    right = score_correct(
        ModelAnswer('Here:\n```json\n{"price": 2.0, "urgent": true, "category": "a"}\n```', reference=reference), parts
    )
    assert (right.passed, right.value) == (True, 1.0)
    wrong = score_correct(ModelAnswer('{"category": "a", "urgent": 1, "price": "2"}', reference=reference), parts)
    assert (wrong.passed, wrong.kind, wrong.value) == (False, "/urgent", pytest.approx(1 / 3))
    assert "/price" in wrong.detail
    assert wrong.kinds == ("/urgent", "/price")
    assert metric_rates([{"correct": wrong}, {"correct": right}])[0].failures == {"/urgent": 1, "/price": 1}
    assert score_correct(ModelAnswer("So 2 + 2 = 4", reference="#### 4"), ["number"]).passed


def test_kind_is_first_differing_field():
    score = fields({"b": 1, "a": 2}, {"b": 2, "a": 3})
    assert score.kind == "/a"
    assert "/b" in score.detail


def test_value_may_be_in_prose_and_missing_value_has_no_fields():
    assert score_fields(ModelAnswer('Sure! {"a": 1}', reference='{"a": 1}')).passed
    assert score_fields(ModelAnswer("Sure!", reference='{"a": 1}')).value == 0
    assert score_fields(ModelAnswer("[" * 9999, reference='{"a": 1}')).value == 0


def _f1(one: object, two: object) -> float:
    """Compute F1 independently from sets of paths with JSON texts."""

    def flat(value: object, path: tuple[object, ...] = ()) -> set[tuple[object, ...]]:
        if isinstance(value, dict) and value:
            return set().union(*(flat(item, (*path, "key", name)) for name, item in value.items()))
        if isinstance(value, list) and value:
            return set().union(*(flat(item, (*path, "item", at)) for at, item in enumerate(value)))
        return {(*path, json.dumps(value))}

    a, b = flat(one), flat(two)
    precision, recall = len(a & b) / len(a), len(a & b) / len(b)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(
    st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=3), st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=3)
)
def test_f1_matches_independent_precision_and_recall(one, two):
    assert fields(one, two).value == pytest.approx(_f1(one, two))


def test_leaves_are_pointers_with_values():
    assert leaves({"a/b": [1, {}], "~": None}) == Counter(
        {("/a~1b/0", ((1,), 1)): 1, ("/a~1b/1", ((1,), ("dict", "{}"))): 1, ("/~0", ((), None)): 1}
    )
