"""The bundled advice rules and validation of rule files."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from mlxtune.advice.rules import parse_condition, read_rules, rules
from mlxtune.core.errors import InputError
from mlxtune.evaluation.scorers.registry import LABELS

TEXT = files("mlxtune.advice").joinpath("rules.toml").read_text(encoding="utf-8")


def test_nine_tradeoffs_compare_retrieval_and_training() -> None:
    rows = rules().tradeoffs
    assert [row.rule.key for row in rows] == [
        "knowledge", "freshness", "citations", "behaviour", "examples", "latency", "cost", "access", "explanation",
    ]  # fmt: skip
    assert {row.rule.points for row in rows} == {"rag", "fine-tune"}
    for row in rows:
        assert row.ask.endswith("?")
        assert row.rag
        assert row.tuned


def test_every_rule_names_source_and_what_would_change_it() -> None:
    by = rules()
    for rule in (*by.right, *by.wrong, *by.gates, *(row.rule for row in by.tradeoffs)):
        assert rule.source.startswith(("https://", "http://")) or "arXiv:" in rule.source, rule.key
    for rule in (*by.right, *by.wrong, *by.gates, *by.cautions):
        assert rule.changes, rule.key
        assert rule.when, rule.key
    assert all(rule.points == "fine-tune" for rule in by.right)
    assert all(rule.points == "rag" for rule in by.wrong)
    assert all(rule.verdict in ("prompt_first", "not_yet") and rule.next for rule in by.gates)


def test_there_is_a_fallback_method() -> None:
    assert rules().methods[-1].holds({})


def test_rule_keys_are_unique() -> None:
    by = rules()
    for section in (by.questions, by.right, by.wrong, by.gates, by.cautions, by.methods, by.contradictions):
        keys = [entry.key for entry in section]  # type: ignore[attr-defined]
        assert len(set(keys)) == len(keys)
    assert {question.key for question in by.questions} == {key for key, fact in by.facts.items() if fact.origin == "answer"}


def test_interview_metrics_are_contract_metrics() -> None:
    metric = next(question for question in rules().questions if question.key == "metric")
    assert set(metric.options) - {"none", "elsewhere"} <= set(LABELS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('when = ["change has facts"]', 'when = ["chnge has facts"]', "no fact named chnge"),
        ('when = ["change has facts"]', 'when = ["change has fcts"]', "change cannot be fcts"),
        ('when = ["change has facts"]', 'when = ["change holds facts"]', "is not a valid condition"),
        ('when = ["change has facts"]', 'when = ["change known facts"]', "is not a valid condition"),
        ('when = ["groups from 200"]', 'when = ["groups from many"]', "neither a number nor a fact"),
        ('verdict = "not_yet"', 'verdict = "not_now"', "no verdict named “not_now”"),
        ('points = "rag"', 'points = "prompt"', "no verdict named “prompt”"),
        ("requirements is weekly|daily", "requirements is weekly|hourly", "requirements cannot be hourly"),
    ],
)
def test_unknown_name_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=message):
        read_rules(TEXT.replace(old, new))


def test_invalid_rule_is_located() -> None:
    with pytest.raises(InputError, match=r"^gate few-calls: there is no fact named call") as error:
        read_rules(TEXT.replace('when = ["change only cost|latency", "calls below 10000"]', 'when = ["call below 10000"]'))
    assert "calls" in error.value.hint


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
        ("metric is contract|exact", "exact", True),
        ("metric is contract|exact", "fields", False),
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
def test_condition_evaluates(condition: str, value: Any, holds: bool) -> None:
    fact = condition.partition(" ")[0]
    assert parse_condition(condition, rules().facts, "here").holds({"target": 95, fact: value}) is holds
