"""Scripted interviews, one or more for each rule and each row: they end in the verdict that the rules give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.advice.answers import check
from mlxtune.advice.evidence import Evidence, Measured
from mlxtune.advice.rules import rules
from mlxtune.advice.verdict import Advice, verdict
from mlxtune.data.checks.notes import tier

CASES = {file.stem: json.loads(file.read_text()) for file in sorted((Path(__file__).parent / "interviews").glob("*.json"))}


def evidence(told: dict[str, Any] | None, metric: str) -> Evidence:
    if told is None:
        return Evidence()
    arms = {arm: Measured(arm, hits, total, 0.0, 1.0, "20261124-1412-shop") for arm, (hits, total) in told["arms"].items()}
    rest = {key: value for key, value in told.items() if key != "arms"}
    return Evidence(**rest, tier=tier(told["groups"]), arms={metric: arms} if arms else {})


def advise(case: dict[str, Any]) -> Advice:
    return verdict(check(case["answers"]), evidence(case["evidence"], case["answers"]["metric"]))


@pytest.mark.parametrize("name", CASES)
def test_an_interview_ends_in_the_verdict_that_the_rules_give(name: str) -> None:
    expect, advice = CASES[name]["expect"], advise(CASES[name])
    assert (advice.verdict, advice.method) == (expect["verdict"], expect["method"])
    assert {reason.rule for reason in advice.reasons} == set(expect["reasons"])
    points = {row.key: row.points for row in advice.table}
    assert {key: points[key] for key in expect["rows"]} == expect["rows"]
    told = {rule.key: rule.text.split("{")[0][:40] for rule in rules().contradictions}
    assert [next(key for key, text in told.items() if said.startswith(text)) for said in advice.contradictions] == expect[
        "contradictions"
    ]
    assert expect["next"] in advice.next
    assert expect.get("says", "") in " ".join([advice.sentence, *(reason.text for reason in advice.reasons)])


def test_there_are_twelve_interviews_or_more_and_every_rule_and_row_has_one() -> None:
    assert len(CASES) >= 12
    advice = [advise(case) for case in CASES.values()]
    by = rules()
    used = {reason.rule for one in advice for reason in one.reasons}
    assert used >= {rule.key for rule in (*by.right, *by.wrong, *by.gates, *by.cautions)}
    assert {row.key for one in advice for row in one.table if row.points} == {row.rule.key for row in by.rows}
    assert {one.method for one in advice} - {""} == {rule.key for rule in by.methods}
    said = " ".join(text for one in advice for text in one.contradictions)
    assert all(rule.text.split("{")[0][:40] in said for rule in by.contradictions)


@pytest.mark.parametrize("name", CASES)
def test_every_reason_rests_on_an_answer_or_a_number(name: str) -> None:
    for reason in advise(CASES[name]).reasons:
        assert reason.because
        assert all(text.startswith(("you said ", "found ", "measured ")) for text in reason.because)
        assert "{" not in reason.text
        assert "?" not in reason.text.rstrip("?")


def test_the_reason_for_a_prompt_names_what_it_reached() -> None:
    advice = advise(CASES["09-the-prompt-alone-will-do"])
    assert advice.sentence == "Your prompt alone reaches 95.8 %: do not fine-tune for this."
    assert advice.reasons[0].because == ("measured the best without training: 95.8 %", "you said good enough from: 95 %")
    assert "base+prompt: 95.8 % of 72 rows (0 to 100), by 20261124-1412-shop" in advice.measured


def test_no_metric_no_training_whatever_else_is_said() -> None:
    for name, case in CASES.items():
        advice = advise(case | {"answers": case["answers"] | {"metric": "none"}})
        assert advice.verdict not in ("fine-tune", "both"), name
        assert advice.method == ""


def test_the_same_interview_gives_the_same_advice() -> None:
    for case in CASES.values():
        assert advise(case) == advise(case)
