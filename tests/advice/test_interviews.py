"""Scripted interviews, at least one per rule and tradeoff, end in the expected verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.advice.evidence import AdviceEvidence, ArmEvidence
from mlxtune.advice.interview import parse_answers
from mlxtune.advice.rules import rules
from mlxtune.advice.verdict import Advice, give_advice
from mlxtune.data.checks.statistics import tier

CASES = {file.stem: json.loads(file.read_text()) for file in sorted((Path(__file__).parent / "interviews").glob("*.json"))}


def evidence(facts: dict[str, Any] | None, metric: str) -> AdviceEvidence:
    if facts is None:
        return AdviceEvidence()
    arms = {arm: ArmEvidence(arm, hits, total, 0.0, 1.0, "20261124-1412-shop") for arm, (hits, total) in facts["arms"].items()}
    rest = {key: value for key, value in facts.items() if key not in ("arms", "measured")}
    return AdviceEvidence(**rest, tier=tier(facts["groups"]), arms={facts.get("measured", metric): arms} if arms else {})


def advise(case: dict[str, Any]) -> Advice:
    return give_advice(parse_answers(case["answers"]), evidence(case["evidence"], case["answers"]["metric"]))


@pytest.mark.parametrize("name", CASES)
def test_interview_produces_expected_verdict(name: str) -> None:
    expect, advice = CASES[name]["expect"], advise(CASES[name])
    assert (advice.verdict, advice.method) == (expect["verdict"], expect["method"])
    assert {reason.rule for reason in advice.reasons} == set(expect["reasons"])
    points = {row.key: row.points for row in advice.table}
    assert {key: points[key] for key in expect["rows"]} == expect["rows"]
    openings = {rule.key: rule.text.split("{")[0][:40] for rule in rules().contradictions}
    assert [
        next(key for key, text in openings.items() if contradiction.startswith(text)) for contradiction in advice.contradictions
    ] == expect["contradictions"]
    assert expect["next"] in advice.next
    assert expect.get("says", "") in " ".join([advice.sentence, *(reason.text for reason in advice.reasons)])


def test_every_rule_and_tradeoff_has_interview() -> None:
    assert len(CASES) >= 12
    advice = [advise(case) for case in CASES.values()]
    by = rules()
    used = {reason.rule for one in advice for reason in one.reasons}
    assert used >= {rule.key for rule in (*by.right, *by.wrong, *by.gates, *by.cautions)}
    assert {row.key for one in advice for row in one.table if row.points} == {row.rule.key for row in by.tradeoffs}
    assert {one.method for one in advice} - {""} == {rule.key for rule in by.methods}
    contradictions = " ".join(text for one in advice for text in one.contradictions)
    assert all(rule.text.split("{")[0][:40] in contradictions for rule in by.contradictions)


@pytest.mark.parametrize("name", CASES)
def test_every_reason_cites_answer_or_measurement(name: str) -> None:
    for reason in advise(CASES[name]).reasons:
        assert reason.because
        ends = ("(your answer)", "(the default)", "(found in the workspace)", "(measured)", ": not measured", ": unknown")
        assert all(text.endswith(ends) for text in reason.because)
        assert not any("nothing (measured)" in text for text in reason.because)
        assert "{" not in reason.text
        assert "?" not in reason.text.rstrip("?")


def test_prompt_reason_states_measured_rate() -> None:
    advice = advise(CASES["09-the-prompt-alone-will-do"])
    assert advice.sentence == "Your prompt alone already reaches 95.8%, so fine-tuning is not needed."
    assert advice.reasons[0].because == ("best without training: 95.8% (measured)", "target: 95% (the default)")
    assert "base+prompt: 95.8% of 72 rows (0–100), from 20261124-1412-shop" in advice.measured


def test_missing_metric_rules_out_training() -> None:
    for name, case in CASES.items():
        advice = advise(case | {"answers": case["answers"] | {"metric": "none"}})
        assert advice.verdict not in ("fine-tune", "both"), name
        assert advice.method == ""


def test_advice_is_deterministic() -> None:
    for case in CASES.values():
        assert advise(case) == advise(case)
