"""The advice rules: ``rules.toml`` parsed, with every condition checked against the known facts and answers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from mlxtune.advice.next_step import StepCode
from mlxtune.core.errors import InputError
from mlxtune.core.text import suggest

Verdict = Literal["prompt_first", "rag", "fine-tune", "both", "not_yet"]
Kind = Literal["one", "some", "number"]
Fact = str | float | frozenset[str] | None  # a value, a set of values, or unknown
Facts = Mapping[str, Fact]

VERDICTS: tuple[Verdict, ...] = ("prompt_first", "rag", "fine-tune", "both", "not_yet")
_SET_OPERATORS = ("has", "lacks", "only")
_NUMBER_OPERATORS = ("below", "from")
_UNARY_OPERATORS = ("known", "unknown")


@dataclass(frozen=True)
class FactInfo:
    """A fact's origin, its label and its unit."""

    origin: Literal["answer", "workspace", "measured"]
    label: str
    unit: str = ""


@dataclass(frozen=True)
class InterviewQuestion:
    """A question. ``options`` maps answers to their meaning; numbers have ``least`` and ``most``. Required without a ``default``."""

    key: str
    kind: Kind
    ask: str
    options: Mapping[str, str]
    least: float | None = None
    most: float | None = None
    default: Any = None


@dataclass(frozen=True)
class Condition:
    """A comparison such as ``groups below 50``. In numeric comparisons, ``value`` may name another fact."""

    fact: str
    operator: str
    value: str = ""

    def holds(self, facts: Facts) -> bool:
        """Whether the condition is true. Comparisons with an unknown fact are false."""
        value = facts.get(self.fact)
        if self.operator in _UNARY_OPERATORS:
            return (value is not None) == (self.operator == "known")
        if value is None:
            return False
        if self.operator == "is":
            return value in self.value.split("|")
        if self.operator in _SET_OPERATORS:
            values = value if isinstance(value, frozenset) else frozenset({str(value)})
            expected = frozenset(self.value.split("|"))
            match self.operator:
                case "has":
                    return bool(values & expected)
                case "lacks":
                    return not values & expected
            return bool(values) and values <= expected
        other = facts.get(self.value) if self.value in facts else float(self.value)
        if not isinstance(value, int | float) or not isinstance(other, int | float):
            return False
        return value < other if self.operator == "below" else value >= other

    @property
    def facts(self) -> tuple[str, ...]:
        """The names of the facts that are compared."""
        two_facts = self.operator in _NUMBER_OPERATORS and not _is_number(self.value)
        return (self.fact, self.value) if two_facts else (self.fact,)


@dataclass(frozen=True)
class AdviceRule:
    """A rule that holds if all conditions in ``when`` hold and, if ``any`` is not empty, at least one condition in ``any`` holds.

    ``points`` is the alternative that a right or wrong rule supports. ``verdict`` and ``next`` are a gate's verdict and next step.
    """

    section: str
    key: str
    when: tuple[Condition, ...]
    any: tuple[Condition, ...]
    text: str
    changes: str = ""
    next: StepCode | None = None
    source: str = ""
    points: str = ""
    verdict: str = ""

    def holds(self, facts: Facts) -> bool:
        return all(one.holds(facts) for one in self.when) and (not self.any or any(one.holds(facts) for one in self.any))

    def because(self, facts: Facts) -> tuple[str, ...]:
        """Return the names of the facts that made the rule hold."""
        conditions = [*self.when, *(one for one in self.any if one.holds(facts))]
        return tuple(dict.fromkeys(name for one in conditions for name in one.facts))


@dataclass(frozen=True)
class Tradeoff:
    """One of the nine questions for choosing between RAG and fine-tuning, with the effect of each."""

    rule: AdviceRule
    ask: str
    rag: str
    tuned: str


@dataclass(frozen=True)
class Rules:
    """All rules in file order, which is the order in which gates and methods are tried."""

    facts: Mapping[str, FactInfo]
    questions: tuple[InterviewQuestion, ...]
    tradeoffs: tuple[Tradeoff, ...]
    right: tuple[AdviceRule, ...]
    wrong: tuple[AdviceRule, ...]
    gates: tuple[AdviceRule, ...]
    cautions: tuple[AdviceRule, ...]
    methods: tuple[AdviceRule, ...]
    contradictions: tuple[AdviceRule, ...]


@cache
def rules() -> Rules:
    """Return mlxtune's rules."""
    return read_rules(files("mlxtune.advice").joinpath("rules.toml").read_text(encoding="utf-8"))


def read_rules(text: str) -> Rules:
    """Parse rules. Raise ``InputError`` if a fact, answer or verdict does not exist."""
    data = tomllib.loads(text)
    facts = {name: FactInfo(entry["from"], entry["label"], entry.get("unit", "")) for name, entry in data["facts"].items()}
    questions = tuple(InterviewQuestion(**{"options": {}, **entry}) for entry in data["question"])
    answers = {question.key: question for question in questions}

    def section(name: str) -> tuple[AdviceRule, ...]:
        return tuple(_rule(name, number, entry, facts, answers) for number, entry in enumerate(data[name], 1))

    tradeoffs = tuple(
        Tradeoff(rule, entry["ask"], entry["rag"], entry["tuned"]) for rule, entry in zip(section("row"), data["row"], strict=True)
    )
    return Rules(
        facts, questions, tradeoffs, section("right"), section("wrong"), section("gate"), section("caution"), section("method"),
        section("contradiction"),
    )  # fmt: skip


def parse_condition(text: str, known: Mapping[str, object], where: str) -> Condition:
    """Parse a condition about ``known`` facts. Raise an ``InputError`` that names the rule (``where``) if it is invalid."""
    fact, _, rest = text.partition(" ")
    operator, _, value = rest.partition(" ")
    if fact not in known:
        raise InputError(f"{where}: there is no fact named {fact}.", hint=suggest(fact, known))
    operators = (*_SET_OPERATORS, "is", *_NUMBER_OPERATORS, *_UNARY_OPERATORS)
    if operator not in operators or bool(value) == (operator in _UNARY_OPERATORS):
        raise InputError(
            f"{where}: “{text}” is not a valid condition.",
            hint="Use FACT has|lacks|only|is|below|from VALUE or FACT known|unknown.",
        )
    if operator in _NUMBER_OPERATORS and not _is_number(value) and value not in known:
        raise InputError(f"{where}: “{value}” is neither a number nor a fact.")
    return Condition(fact, operator, value)


def _rule(
    section: str,
    number: int,
    entry: Mapping[str, Any],
    facts: Mapping[str, FactInfo],
    answers: Mapping[str, InterviewQuestion],
) -> AdviceRule:
    key = entry.get("key") or entry.get("name") or f"{entry.get('verdict', '')} {number}".strip()
    where = f"{section} {key}"
    when, any_ = (tuple(_condition(text, where, facts, answers) for text in entry.get(name, ())) for name in ("when", "any"))
    verdict, points = entry.get("verdict", ""), entry.get("points", "fine-tune" if section == "right" else "")
    if verdict not in ("", *VERDICTS) or points not in ("", "rag", "fine-tune"):
        raise InputError(f"{where}: there is no verdict named “{verdict or points}”.")
    text = entry.get("why") or entry.get("text") or ""
    step = StepCode(entry["next"]) if "next" in entry else None
    return AdviceRule(section, key, when, any_, text, entry.get("changes", ""), step, entry.get("source", ""), points, verdict)


def _condition(text: str, where: str, facts: Mapping[str, FactInfo], answers: Mapping[str, InterviewQuestion]) -> Condition:
    condition = parse_condition(text, facts, where)
    question = answers.get(condition.fact)
    if question and question.options and condition.operator in (*_SET_OPERATORS, "is"):
        for value in condition.value.split("|"):
            if value not in question.options:
                raise InputError(f"{where}: {condition.fact} cannot be {value}.", hint=f"Use one of {', '.join(question.options)}.")
    return condition


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
