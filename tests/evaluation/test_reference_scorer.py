from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.reference import leaves, score_exact, score_fields

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text("ab/~", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3),
    max_leaves=8,
)


def fields(output: object, reference: object, paths: tuple[str, ...] = ()) -> Score:
    return score_fields(ModelAnswer(json.dumps(output), reference=json.dumps(reference)), paths)


@pytest.mark.parametrize(
    ("output", "reference", "same"),
    [
        ('{"a": 1, "b": [true]}', '{ "b": [true], "a": 1.0 }', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1}', '{"a": 1, "b": null}', False),
        ("[1, 2]", "[2, 1]", False),
        ("[]", "{}", False),
        ("[[]]", "[]", False),
        ("0", "false", False),
        ('"\\u00e9"', '"é"', True),
        ('```\n{"a": 1}\n```', '{"a": 1}', False),
        ("<think>Hm.</think>yes", "yes", True),
        (" yes\n", "yes", True),
        ("Yes", "yes", False),
        ("1e400", "1e401", False),
        ("1e999", "2e999", False),
        ("1e999", "10e998", True),
        ("[-1e999]", "[-1e999]", True),
        ("9" * 5000, "9" * 4999 + "8", False),
        ("9" * 5000, "9" * 5000, True),
    ],
)
def test_exact_compares_json_values_or_text(output, reference, same):
    assert score_exact(ModelAnswer(output, reference=reference)).passed == same


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
def test_a_cut_answer_is_classed_as_such_and_final_once_it_differs(output: str, reference: str, is_final: bool) -> None:
    score = score_exact(ModelAnswer(output, "length", reference))
    assert (score.kind, score.detail, score.is_final) == ("cut_off", "cut off, and the output differs from the reference", is_final)
    assert score_fields(ModelAnswer('{"a": [1', "loop", '{"a": [1]}')).kind == "in_a_loop"
    assert score_exact(ModelAnswer(reference, "length", reference)).passed


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
    ],
)
def test_field_f1(output, reference, value):
    score = fields(output, reference)
    assert score.value == pytest.approx(value)
    assert score.passed == (value == 1)
    assert bool(score.kind) == (value != 1)


def test_only_named_fields_count():
    output, reference = {"a": 1, "reply": "x", "c": {"d": 1}}, {"a": 1, "reply": "y", "c": {"d": 1}}
    assert fields(output, reference).value == pytest.approx(2 / 3)
    assert fields(output, reference, ("/a", "/c")).passed
    assert fields(output, reference, ("/a", "/reply")).kind == "/reply"
    assert fields(output, reference, ("/absent",)).passed


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
    assert leaves({"a/b": [1, {}], "~": None}) == Counter({("/a~1b/0", 1): 1, ("/a~1b/1", ("dict", "{}")): 1, ("/~0", None): 1})
