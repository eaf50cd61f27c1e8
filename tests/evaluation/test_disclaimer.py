from __future__ import annotations

import json

import pytest

from mlxtune.evaluation.scorers.disclaimer import normalised, right_disclaimer
from mlxtune.recipe import Disclaimer

ALWAYS = Disclaimer("This isn't advice.")
SAFETY = Disclaimer("Take care.", {"category": "safety"})


def _answer(reply: str, category: str = "order") -> str:
    return json.dumps({"category": category, "reply": reply})


@pytest.mark.parametrize(
    "output",
    [
        "This isn't advice.",
        "this ISN’T  advice. Bye",
        "So: This isn't\nadvice.",
        _answer("Hi. This isn't\n advice."),
        '{"reply": "This isn\\u2019t advice."}',
    ],
)
def test_case_space_quotes_and_escapes_make_no_difference(output):
    assert right_disclaimer(output, [ALWAYS], None).holds


@pytest.mark.parametrize("output", ["", "This is advice.", "{}", "This isn't", '["This", 5, null]'])
def test_missing_disclaimer_is_said(output):
    score = right_disclaimer(output, [ALWAYS], None)
    assert (score.holds, score.kind) == (False, "missing")
    assert ALWAYS.text in score.why


def test_rule_applies_where_the_reference_says_so_and_not_where_the_output_does():
    reference = _answer("x", "safety")
    assert right_disclaimer(_answer("Take care."), [SAFETY], reference).holds
    assert right_disclaimer(_answer("Nothing."), [SAFETY], reference).kind == "missing"


def test_disclaimer_out_of_place_is_a_failure():
    assert right_disclaimer(_answer("Take care."), [SAFETY], _answer("x")).kind == "out of place"
    assert right_disclaimer(_answer("Nothing."), [SAFETY], _answer("x")).holds


def test_every_field_of_when_must_agree():
    rule = Disclaimer("Take care.", {"category": "safety", "high": True})
    both, one = ({"category": "safety", "high": high} for high in (True, False))
    assert right_disclaimer("nothing", [rule], json.dumps(both)).kind == "missing"
    assert right_disclaimer("nothing", [rule], json.dumps(one)).holds


@pytest.mark.parametrize("reference", [None, "no JSON at all"])
def test_without_a_reference_only_unconditional_rules_are_judged(reference):
    assert right_disclaimer("Take care.", [SAFETY], reference).holds
    assert right_disclaimer("Take care.", [SAFETY, ALWAYS], reference).kind == "missing"


def test_deeply_nested_output_is_searched_and_raises_nothing():
    deep = "[" * 600 + '"This isn\'t advice."' + "]" * 600
    assert right_disclaimer(deep, [ALWAYS], None).holds
    assert right_disclaimer("[" * 200_000, [ALWAYS], None).kind == "missing"


def test_keys_are_no_place_for_a_disclaimer():
    assert not right_disclaimer(json.dumps({ALWAYS.text: 1}), [ALWAYS], None).holds


def test_normalised_folds_what_people_do_not_see():
    assert normalised("  “Ａ” –\u00a0b\n") == '"a" - b'
