"""Rules for any text: its length, a pattern that it matches, and phrases that it must not contain."""

import json

import pytest

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.text_rules import score_forbidden, score_length, score_pattern
from mlxtune.recipe import EvaluationSection, Length

NUMBER = "#### [-$]?[0-9][0-9,.]*$"


@pytest.mark.parametrize(
    ("output", "limit", "kind"),
    [
        ("abc", Length(max=3), ""),
        (" abc \n", Length(max=3), ""),
        ("abcd", Length(max=3), "too_long"),
        ("ab", Length(min=3), "too_short"),
        ("", Length(min=1), "too_short"),
        ("x" * 10_000, Length(min=1), ""),
        ("one two  three", Length(max=3, unit="words"), ""),
        ("one two three four", Length(max=3, unit="words"), "too_long"),
        ("<think>a long thought</think>abc", Length(max=3), ""),
        ("ééé", Length(max=3), ""),
        (json.dumps({"reply": "abc"}), Length(max=3, at="/reply"), ""),
        (json.dumps({"reply": "abcd"}), Length(max=3, at="/reply"), "too_long"),
        ("Sure! " + json.dumps({"reply": "abc"}), Length(max=3, at="/reply"), ""),
        (json.dumps({"reply": 5}), Length(max=3, at="/reply"), "no_text"),
        (json.dumps({"other": "abc"}), Length(max=3, at="/reply"), "no_text"),
        ("abc", Length(max=3, at="/reply"), "no_text"),
        (json.dumps({"parts": ["a", {"b/c": "abcd"}]}), Length(max=3, at="/parts/1/b~1c"), "too_long"),
    ],
)
def test_length_scores(output, limit, kind):
    score = score_length(ModelAnswer(output), limit)
    assert (score.passed, score.kind) == (not kind, kind)
    assert bool(score.detail) == bool(kind)


@pytest.mark.parametrize(("ended", "kind"), [("loop", "in_a_loop"), ("length", "cut_off")])
def test_unfinished_answer_fails_a_maximum_or_an_unmatched_pattern(ended, kind):
    unfinished = ModelAnswer("ha ha ha", ended)
    assert score_length(unfinished, Length(max=300)).kind == kind
    assert score_length(unfinished, Length(max=3)).kind == "too_long"
    assert score_length(unfinished, Length(min=2)).passed
    assert score_pattern(ModelAnswer("2 + 2 = ", ended), NUMBER).kind == kind
    assert score_pattern(ModelAnswer("#### 4", ended), NUMBER).passed


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("2 + 2 = 4\n#### 4", ""),
        ("#### -1,200.50  \n\n", ""),
        ("<think>\nhm\n</think>\n\n#### 4", ""),
        ("#### 4 apples", "no_match"),
        ("#### 4\n\nSo it is 4.", "no_match"),
        ("<think>\n#### 4\n</think>\n\nFour.", "no_match"),
        ("", "no_match"),
    ],
)
def test_pattern_scores(output, kind):
    score = score_pattern(ModelAnswer(output), NUMBER)
    assert (score.passed, score.kind) == (not kind, kind)


def test_an_answer_that_repeats_itself_until_its_limit_is_in_a_loop():
    contract = Contract(EvaluationSection(pattern=NUMBER))
    assert contract.score(ModelAnswer("and so on, " * 40, "length"))["contract"].kind == "in_a_loop"
    assert contract.score(ModelAnswer("Tom has three apples and buys two more, so that he", "length"))["contract"].kind == "cut_off"


def test_a_slow_pattern_fails():
    assert score_pattern(ModelAnswer("a" * 5000), r"(?:a|aa|a\w)+\d$").kind == "pattern_too_slow"


def test_any_of_several_phrases_is_forbidden_and_named():
    """Where a phrase occurs is a case of the self-test."""
    score = score_forbidden(ModelAnswer("the beta shop"), ["Alpha", "Beta"])
    assert (score.passed, score.kind, score.detail) == (False, "forbidden", "it contains “Beta”")
