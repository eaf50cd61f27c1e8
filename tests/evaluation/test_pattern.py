"""The required pattern: a regular expression that the answer matches."""

import pytest

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.text_rules import score_pattern
from mlxtune.recipe import EvaluationSection

NUMBER = "#### [-$]?[0-9][0-9,.]*$"


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


@pytest.mark.parametrize(("ended", "kind"), [("length", "cut_off"), ("loop", "in_a_loop")])
def test_an_unfinished_answer_fails_as_such(ended, kind):
    assert score_pattern(ModelAnswer("2 + 2 = ", ended), NUMBER).kind == kind
    assert score_pattern(ModelAnswer("#### 4", ended), NUMBER).passed


def test_an_answer_that_repeats_itself_until_its_limit_is_in_a_loop():
    contract = Contract(EvaluationSection(pattern=NUMBER))
    assert contract.score(ModelAnswer("and so on, " * 40, "length"))["contract"].kind == "in_a_loop"
    assert contract.score(ModelAnswer("Tom has three apples and buys two more, so that he", "length"))["contract"].kind == "cut_off"


def test_a_slow_pattern_fails():
    assert score_pattern(ModelAnswer("a" * 5000), r"(?:a|aa|a\w)+\d$").kind == "pattern_too_slow"
