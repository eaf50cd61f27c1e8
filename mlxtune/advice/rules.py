"""The advice rules: ``rules.toml`` parsed."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from mlxtune.advice.next_step import StepCode

Verdict = Literal["prompt_first", "rag", "fine-tune", "both", "not_yet"]
Kind = Literal["one", "some", "number"]
Fact = str | float | frozenset[str] | None  # a value, a set of values, or unknown
Facts = Mapping[str, Fact]

_SET_OPERATORS = ("has", "lacks", "only")
_NUMBER_OPERATORS = ("below", "from")
_UNARY_OPERATORS = ("known", "unknown")
OPERATORS = (*_SET_OPERATORS, "is", *_NUMBER_OPERATORS, *_UNARY_OPERATORS)


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
    """A rule that holds if all conditions in ``when`` hold and, if ``any`` is not empty, at least one condition in ``any`` holds."""

    section: str
    key: str
    when: tuple[Condition, ...]
    any: tuple[Condition, ...]
    text: str = ""
    changes: str = ""
    next: StepCode | None = None  # of a gate
    source: str = ""
    points: str = ""  # the alternative that it supports
    verdict: str = ""  # of a gate
    ask: str = ""  # of a tradeoff: the question, and what retrieval and training do about it
    rag: str = ""
    tuned: str = ""

    def holds(self, facts: Facts) -> bool:
        return all(one.holds(facts) for one in self.when) and (not self.any or any(one.holds(facts) for one in self.any))

    def because(self, facts: Facts) -> tuple[str, ...]:
        """Return the names of the facts that made the rule hold."""
        conditions = [*self.when, *(one for one in self.any if one.holds(facts))]
        return tuple(dict.fromkeys(name for one in conditions for name in one.facts))


@dataclass(frozen=True)
class Rules:
    """All rules in file order, which is the order in which gates and methods are tried."""

    facts: Mapping[str, FactInfo]
    questions: tuple[InterviewQuestion, ...]
    tradeoffs: tuple[AdviceRule, ...]  # the nine questions for choosing between RAG and fine-tuning
    right: tuple[AdviceRule, ...]
    wrong: tuple[AdviceRule, ...]
    gates: tuple[AdviceRule, ...]
    cautions: tuple[AdviceRule, ...]
    methods: tuple[AdviceRule, ...]
    contradictions: tuple[AdviceRule, ...]


@cache
def rules() -> Rules:
    data = tomllib.loads(files("mlxtune.advice").joinpath("rules.toml").read_text(encoding="utf-8"))
    facts = {name: FactInfo(**entry) for name, entry in data["facts"].items()}
    questions = tuple(InterviewQuestion(**{"options": {}, **entry}) for entry in data["question"])
    sections = ("row", "right", "wrong", "gate", "caution", "method", "contradiction")
    return Rules(facts, questions, *(tuple(_rule(name, entry, facts) for entry in data[name]) for name in sections))


def parse_condition(text: str, known: Mapping[str, object]) -> Condition:
    """Parse a condition about ``known`` facts. Raise ``KeyError`` or ``ValueError`` if it is invalid."""
    fact, operator, *rest = text.split(" ", 2)
    value = rest[0] if rest else ""
    is_number = operator in _NUMBER_OPERATORS
    if bool(value) == (operator in _UNARY_OPERATORS) or operator not in OPERATORS:
        raise ValueError(text)
    _ = known[fact], is_number and not _is_number(value) and known[value]
    return Condition(fact, operator, value)


def _rule(section: str, entry: Mapping[str, Any], facts: Mapping[str, FactInfo]) -> AdviceRule:
    conditions = {name: tuple(parse_condition(text, facts) for text in entry.get(name, ())) for name in ("when", "any")}
    step = {"next": StepCode(entry["next"])} if "next" in entry else {}
    return AdviceRule(section, **{**entry, **conditions, **step})


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
