"""Scripted interviews, at least one per rule and tradeoff, end in the expected verdict."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.advice.evidence import AdviceEvidence
from mlxtune.advice.interview import parse_answers
from mlxtune.advice.rules import rules
from mlxtune.advice.verdict import Advice, give_advice
from mlxtune.data.checks.statistics import tier
from mlxtune.evaluation.report import Rate
from mlxtune.present.advice import advice_document, because, measured_blocks, rule_text
from mlxtune.present.blocks import Table, Text

CASES = {file.stem: json.loads(file.read_text()) for file in sorted((Path(__file__).parent / "interviews").glob("*.json"))}


def evidence(facts: dict[str, Any] | None, metric: str) -> AdviceEvidence:
    if facts is None:
        return AdviceEvidence()
    arms = {arm: (Rate(metric, hits, total, 0.0, 1.0), "20261124-1412-shop") for arm, (hits, total) in facts["arms"].items()}
    rest = {key: value for key, value in facts.items() if key not in ("arms", "measured")}
    return AdviceEvidence(**rest, tier=tier(facts["groups"]), arms={facts.get("measured", metric): arms} if arms else {})


def advise(case: dict[str, Any]) -> Advice:
    return give_advice(parse_answers(case["answers"]), evidence(case["evidence"], case["answers"]["metric"]))


@pytest.mark.parametrize("name", CASES)
def test_interview_produces_expected_verdict(name):
    expect, advice = CASES[name]["expect"], advise(CASES[name])
    assert (advice.verdict, advice.method.key if advice.method else "") == (expect["verdict"], expect["method"])
    assert {rule.key for rule in advice.reasons} == set(expect["reasons"])
    assert {key: advice.points[key] for key in expect["rows"]} == expect["rows"]
    assert [rule.key for rule in advice.contradictions] == expect["contradictions"]
    assert advice.next.code == expect["next"]


def test_every_rule_and_tradeoff_has_interview():
    assert len(CASES) >= 12
    advice = [advise(case) for case in CASES.values()]
    by = rules()
    used = {rule.key for one in advice for rule in one.reasons}
    assert used >= {rule.key for rule in (*by.right, *by.wrong, *by.gates, *by.cautions)}
    assert {key for one in advice for key, points in one.points.items() if points} == {row.key for row in by.tradeoffs}
    assert {one.method.key for one in advice if one.method} == {rule.key for rule in by.methods}
    assert {rule for one in advice for rule in one.contradictions} == set(by.contradictions)


@pytest.mark.parametrize("name", CASES)
def test_every_reason_cites_an_answer_or_a_measurement(name):
    case = CASES[name]
    advice, known = advise(case), evidence(case["evidence"], case["answers"]["metric"])
    for rule in advice.reasons:
        assert because(rule, advice)
        text = rule_text(rule, advice, known)
        assert "{" not in text
        assert "?" not in text.rstrip("?")
    plain = [block.plain for block in advice_document(advice, known) if isinstance(block, Text)]
    assert case["expect"].get("says", "") in " ".join(plain)


def test_prompt_reason_states_the_measured_rate():
    case = CASES["09-the-prompt-alone-will-do"]
    advice, known = advise(case), evidence(case["evidence"], "contract")
    assert because(advice.reasons[0], advice) == "best without training: 95.8% (measured); target: 95% (the default)"
    (table,) = measured_blocks(known, advice.facts["metric"])
    assert isinstance(table, Table)
    assert ["base+prompt", "95.8%", "0 to 100", "", "72", "20261124-1412-shop"] in [
        [cell.text for cell in row] for row in table.rows
    ]


def test_missing_metric_rules_out_training():
    for name, case in CASES.items():
        advice = advise(case | {"answers": case["answers"] | {"metric": "none"}})
        assert advice.verdict not in ("fine-tune", "both"), name
        assert advice.method is None
