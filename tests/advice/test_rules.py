"""The rules that come with mlxtune, and what a file of rules may say."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from mlxtune.advice.conditions import parse
from mlxtune.advice.rules import VERDICTS, read, rules
from mlxtune.core.errors import InputError
from mlxtune.evaluation.contract import LABELS

TEXT = files("mlxtune.advice").joinpath("rules.toml").read_text(encoding="utf-8")


def test_nine_questions_stand_between_retrieval_and_training_and_each_is_sourced() -> None:
    rows = rules().rows
    assert [row.rule.key for row in rows] == [
        "knowledge", "freshness", "citations", "behaviour", "examples", "latency", "cost", "access", "explanation",
    ]  # fmt: skip
    assert {row.rule.points for row in rows} == {"rag", "fine-tune"}
    for row in rows:
        assert row.ask.endswith("?")
        assert row.rag
        assert row.tuned


def test_what_is_said_for_or_against_training_names_its_source_and_what_would_change_it() -> None:
    by = rules()
    for rule in (*by.right, *by.wrong, *by.gates, *(row.rule for row in by.rows)):
        assert rule.source.startswith(("https://", "http://")) or "arXiv:" in rule.source, rule.key
    for rule in (*by.right, *by.wrong, *by.gates, *by.cautions):
        assert rule.changes, rule.key
        assert rule.when, rule.key
    assert all(rule.points == "fine-tune" for rule in by.right)
    assert all(rule.points == "rag" for rule in by.wrong)
    assert all(rule.verdict in ("prompt first", "not yet") and rule.next for rule in by.gates)


def test_every_verdict_has_a_next_step_and_the_last_method_always_holds() -> None:
    by = rules()
    assert {rule.verdict for rule in by.steps} == set(VERDICTS)
    for word in VERDICTS:
        assert any(rule.holds({}) for rule in by.steps if rule.verdict == word), word
    assert by.methods[-1].holds({})


def test_keys_are_told_apart() -> None:
    by = rules()
    for section in (by.questions, by.right, by.wrong, by.gates, by.cautions, by.methods, by.contradictions):
        keys = [entry.key for entry in section]  # type: ignore[attr-defined]
        assert len(set(keys)) == len(keys)
    assert {question.key for question in by.questions} == {key for key, fact in by.facts.items() if fact.origin == "answer"}


def test_the_metrics_of_the_interview_are_those_of_a_contract() -> None:
    metric = next(question for question in rules().questions if question.key == "metric")
    assert set(metric.options) - {"none", "elsewhere"} <= set(LABELS)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('when = ["change has facts"]', 'when = ["chnge has facts"]', "no fact called chnge"),
        ('when = ["change has facts"]', 'when = ["change has fcts"]', "change cannot be fcts"),
        ('when = ["change has facts"]', 'when = ["change holds facts"]', "is no condition"),
        ('when = ["change has facts"]', 'when = ["change known facts"]', "is no condition"),
        ('when = ["groups from 200"]', 'when = ["groups from many"]', "neither a number nor a fact"),
        ('verdict = "not yet"', 'verdict = "not now"', "no verdict “not now”"),
        ('points = "rag"', 'points = "prompt"', "no verdict “prompt”"),
        ("requirements is weekly|daily", "requirements is weekly|hourly", "requirements cannot be hourly"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=message):
        read(TEXT.replace(old, new))


def test_a_wrong_rule_is_found_by_its_place() -> None:
    with pytest.raises(InputError, match=r"^gate few-calls: there is no fact called call") as error:
        read(TEXT.replace('when = ["change only cost|latency", "calls below 10000"]', 'when = ["call below 10000"]'))
    assert "calls" in error.value.mend


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
def test_a_condition(condition: str, value: Any, holds: bool) -> None:
    fact = condition.partition(" ")[0]
    assert parse(condition, rules().facts, "here").holds({"target": 95, fact: value}) is holds
