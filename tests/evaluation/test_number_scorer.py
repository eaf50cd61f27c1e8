from __future__ import annotations

from decimal import Decimal

import pytest

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.highlight import failure_span
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.number import find_number, score_number
from mlxtune.recipe import DataSection, EvaluationSection, ModelSection, Recipe


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
        ("#### 18\n\nQuestion: 4 robes take 12 bolts.", "18"),
        ("So \\boxed{-3.50} it is, in 2 steps.", "-3.50"),
        ("The total is $1,234,567.50.", "1234567.50"),
        ("1,2 and 3,4", "4"),
        ("16-3", "3"),
        ("(16)-3", "3"),
        ("x = -3%", "-3"),
        ("x = −.5", "-0.5"),
        ("about 12.", "12"),
        ("None.", None),
        ("#### none, not 4 or 5", "4"),
        ("٣", None),
    ],
)
def test_the_final_number(text: str, number: str | None) -> None:
    found = find_number(text)
    assert (found and found[0]) == (number and Decimal(number))


@pytest.mark.parametrize(
    ("output", "ended", "reference", "kind"),
    [
        ("18 dollars", "stop", "#### 18", ""),
        ("$18.00", "stop", "18", ""),
        ("#### 18 and so on", "length", "18", ""),
        ("<think>#### 18</think>It is 17.", "stop", "18", "other_number"),
        ("16 - 3 = 13, and 18", "length", "18", "cut_off"),
        ("Let us see", "length", "18", "cut_off"),
        ("18 18 18", "loop", "18", "in_a_loop"),
        ("Many.", "stop", "18", "no_number"),
        ("18", "stop", "Many.", "no_reference"),
    ],
)
def test_answers_are_compared_by_their_final_number(output: str, ended: str, reference: str, kind: str) -> None:
    score = score_number(ModelAnswer(output, ended, reference))
    assert (score.passed, score.kind) == (not kind, kind)


def test_without_a_contract_the_verdict_is_about_the_final_number() -> None:
    contract = Contract(EvaluationSection(correct=["number"]))
    assert [metric.name for metric in contract.metrics] == ["correct"]
    assert contract.headline(Recipe("r", ModelSection("base"), DataSection("rows.jsonl")), has_preferences=False) == "correct"


def test_the_wrong_number_is_highlighted() -> None:
    contract = Contract(EvaluationSection(correct=["number"]))
    text = "It is 16, so #### 17"
    span = failure_span("correct", ModelAnswer(text, "stop", "18"), contract)
    assert span
    assert text[slice(*span)] == "17"
    assert failure_span("correct", ModelAnswer("18", "stop", "18"), contract) is None
