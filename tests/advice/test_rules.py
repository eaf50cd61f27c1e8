"""The bundled advice rules and validation of rule files."""

from typing import get_args

import pytest

from mlxtune.advice.rules import Verdict, parse_condition, rules
from mlxtune.evaluation.scorers.registry import LABELS


def test_nine_tradeoffs_compare_retrieval_and_training():
    rows = rules().tradeoffs
    assert [row.key for row in rows] == [
        "knowledge", "freshness", "citations", "behaviour", "examples", "latency", "cost", "access", "explanation",
    ]  # fmt: skip
    assert {row.points for row in rows} == {"rag", "fine-tune"}
    for row in rows:
        assert row.ask.endswith("?")
        assert row.rag
        assert row.tuned


def test_every_rule_names_source_and_what_would_change_it():
    by = rules()
    for rule in (*by.right, *by.wrong, *by.gates, *by.tradeoffs):
        assert rule.source.startswith(("https://", "http://")) or "arXiv:" in rule.source, rule.key
    for rule in (*by.right, *by.wrong, *by.gates, *by.cautions):
        assert rule.changes, rule.key
        assert rule.when, rule.key
    assert all(rule.points == "fine-tune" for rule in by.right)
    assert all(rule.points == "rag" for rule in by.wrong)
    assert all(rule.verdict in ("prompt_first", "not_yet") and rule.next for rule in by.gates)


def test_there_is_a_fallback_method():
    assert rules().methods[-1].holds({})


def test_rule_keys_are_unique():
    by = rules()
    for section in (by.questions, by.right, by.wrong, by.gates, by.cautions, by.methods, by.contradictions):
        keys = [entry.key for entry in section]  # type: ignore[attr-defined]
        assert len(set(keys)) == len(keys)
    assert {question.key for question in by.questions} == {key for key, fact in by.facts.items() if fact.origin == "answer"}


def test_interview_metrics_are_contract_metrics():
    metric = next(question for question in rules().questions if question.key == "metric")
    assert set(metric.options) - {"none", "elsewhere"} <= set(LABELS)


@pytest.mark.parametrize(
    "condition", ["chnge has facts", "change holds facts", "change known facts", "change has", "groups from many"]
)
def test_an_invalid_condition_is_refused(condition):
    with pytest.raises((KeyError, ValueError)):
        parse_condition(condition, rules().facts)


def test_conditions_name_answers_that_exist_and_gates_a_verdict():
    by = rules()
    answers = {question.key: question.options for question in by.questions if question.options}
    every = (*by.right, *by.wrong, *by.gates, *by.cautions, *by.methods, *by.contradictions, *by.tradeoffs)
    for condition in (one for rule in every for one in (*rule.when, *rule.any)):
        if condition.fact in answers and condition.operator in ("has", "lacks", "only", "is"):
            assert set(condition.value.split("|")) <= set(answers[condition.fact]), condition
    assert {rule.verdict for rule in by.gates} <= set(get_args(Verdict))


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("change has facts", frozenset({"facts", "format"}), True),
        ("change has facts", frozenset({"format"}), False),
        ("change has facts|format", frozenset({"format"}), True),
        ("change has facts", None, False),
        ("change lacks facts", frozenset({"format"}), True),
        ("change lacks facts", frozenset(), True),
        ("change lacks facts", frozenset({"facts"}), False),
        ("change lacks facts", None, False),
        ("change only cost|latency", frozenset({"cost"}), True),
        ("change only cost|latency", frozenset({"cost", "format"}), False),
        ("change only cost|latency", frozenset(), False),
        ("metric is contract|correct", "correct", True),
        ("metric is contract|correct", "preference", False),
        ("metric is contract", None, False),
        ("groups below 50", 49, True),
        ("groups below 50", 50, False),
        ("groups from 50", 50, True),
        ("groups from 50", 49.9, False),
        ("groups from 50", None, False),
        ("groups below 50", None, False),
        ("best from target", 96.0, True),
        ("best from target", 94.9, False),
        ("best known", 0.0, True),
        ("best known", None, False),
        ("best unknown", None, True),
        ("best unknown", 0.0, False),
    ],
)
def test_condition_evaluates(condition, value, holds):
    fact = condition.partition(" ")[0]
    assert parse_condition(condition, rules().facts).holds({"target": 95, fact: value}) is holds
