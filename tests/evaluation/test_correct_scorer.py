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


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


CALL = json.dumps(call("f", a=1))


@pytest.mark.parametrize(
    ("output", "reference", "same"),
    [
        ('{"a": 1, "b": [true]}', '{ "b": [true], "a": 1.0 }', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1}', '{"a": 1, "b": null}', False),
        ("[1, 2]", "[2, 1]", False),
        ("[]", "{}", False),
        ('{"0": 1}', "[1]", False),
        ('{"a": [{"0": [1]}]}', '{"a": {"0": {"0": [1]}}}', False),
        ('{"a": {"0": {"0": 1}}}', '{"a": {"0": [1]}}', False),
        ('{"a": {"0": [1]}}', '{"a": {"0": [1]}}', True),
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
        ("1e-400", "2e-400", False),
        ("1e-400", "0", False),
        ("-1e-400", "1e-400", False),
        ("1e-400", "10e-401", True),
        ('{"a": [1e-999]}', '{"a": [0.0]}', False),
        ("0e-400", "0", True),
        ("-0.0e-999", "0", True),
    ],
)
def test_answer_compares_json_values_or_text(output, reference, same):
    assert score_answer(ModelAnswer(output, reference=reference)).passed == same


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


@pytest.mark.parametrize(
    ("output", "reference", "kind"),
    [
        (call("f", a=1, b="x"), call("f", b="x", a=1.0), ""),
        ([call("f"), call("g")], [call("f"), call("g")], ""),
        ([call("g"), call("f")], [call("f"), call("g")], "/name"),
        (call("f", a="1"), call("f", a=1), "/arguments/a"),
        (call("f", a=True), call("f", a=1), "/arguments/a"),
        (call("f", a=1, b=2), call("f", a=1), "/arguments/b"),
        (call("g", a=1), call("f", a=1), "/name"),
        (call("f"), [call("f"), call("f")], "number_of_calls"),
        ({"function": {"name": "f", "arguments": '{"a": 1}'}}, call("f", a=1), ""),
        ({"name": "f", "parameters": {"a": 1}}, call("f", a=1), ""),
        ('Sure: {"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}', [call("f"), call("g")], ""),
        ("I cannot do that.", call("f"), "no_call"),
        ('<tool_call>{"name": "f", "arguments": {"a": $1}}</tool_call>', call("f", a=1), "malformed_call"),
        ("I cannot do that.", "It is not possible.", ""),
        (call("f"), "It is not possible.", "number_of_calls"),
        (f'{CALL} {{"name": 5}}', CALL, "number_of_calls"),
        (f'{CALL} {{"name": "g", "arguments": "broken {{"}}', CALL, "number_of_calls"),
        (f'{CALL}{{"name": "delete", "arguments": null}}', CALL, "number_of_calls"),
        (f'{CALL}\n{{"function": {{"name": "g"}}}}', CALL, "number_of_calls"),
        (f'{CALL}, {{"name": "g", "arguments": {{"a": ', CALL, "number_of_calls"),
        (f'{{"name": "g", arguments: 5}} {CALL}', CALL, "number_of_calls"),
        (f"[{CALL}, 5]", CALL, "number_of_calls"),
        ('{"name": "f"}', "Hello", "number_of_calls"),
        ('{"name": "f", "arguments": "x"}', "Hello", "number_of_calls"),
        ('I call {"name": "f", "arguments": {', "Hello", "number_of_calls"),
        ('{"name": "f", "arguments": "use {\\"a\\": 1}"}', CALL, "/arguments"),
        (f"I considered {CALL} but no.", CALL, "text_after_it"),
        (f"{CALL}\n\nThe weather is fine.", CALL, "text_after_it"),
        (f"I considered {CALL} but no.", "Hello", "number_of_calls"),
        (f"I will look. {CALL}", CALL, ""),
        (f"{CALL} No wait, do not. [1]", CALL, "text_after_it"),
        (f"Use {{name}} as the key. {CALL}", CALL, ""),
        (f"{CALL}<|eot_id|>assistant", CALL, ""),
        (f"{CALL}\n```json", CALL, ""),
        (f"<tool_call>\n{CALL}\n</tool_call><|im_end|>", CALL, ""),
        (f"```json\n{CALL}\n```", CALL, ""),
        (f"[TOOL_CALLS][{CALL}][/TOOL_CALLS].", CALL, ""),
        (f"{CALL} Done.", f"{CALL} Done.", ""),
        ('Here it is: {"city": "Rome"}', "Hello", ""),
    ],
)
def test_calls_are_compared_by_name_and_arguments(output, reference, kind):
    texts = [item if isinstance(item, str) else json.dumps(item) for item in (output, reference)]
    score = score_correct(ModelAnswer(texts[0], reference=texts[1]), ["calls"])
    assert (score.passed, score.kind) == (not kind, kind)


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
