"""The rules: ``rules.toml`` as values, every condition checked against the facts and answers that there are."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from mlxtune.advice.conditions import SETS, Condition, Facts, parse
from mlxtune.core.errors import InputError

Verdict = Literal["prompt first", "rag", "fine-tune", "both", "not yet"]
Points = Literal["rag", "fine-tune"]
Kind = Literal["one", "some", "number"]

VERDICTS: tuple[Verdict, ...] = ("prompt first", "rag", "fine-tune", "both", "not yet")


@dataclass(frozen=True)
class Known:
    """A fact: whether an answer said it, the workspace or a measurement, and what it is called."""

    origin: Literal["answer", "workspace", "measured"]
    label: str
    unit: str = ""


@dataclass(frozen=True)
class Question:
    """One question of the interview. ``options`` maps what an answer is called to what it means; numbers have ``least`` and ``most``.

    Without a ``default`` it must be answered.
    """

    key: str
    kind: Kind
    ask: str
    options: Mapping[str, str]
    least: float | None = None
    most: float | None = None
    default: Any = None


@dataclass(frozen=True)
class Rule:
    """Holds where all of ``when`` and, if there are any, one of ``any`` do. ``section`` is where it stands: right, wrong, gate, …

    ``points`` is where a right or wrong one leads, ``verdict`` what a gate says or a next step follows.
    """

    section: str
    key: str
    when: tuple[Condition, ...]
    any: tuple[Condition, ...]
    text: str
    changes: str = ""
    next: str = ""
    source: str = ""
    points: str = ""
    verdict: str = ""

    def holds(self, facts: Facts) -> bool:
        return all(one.holds(facts) for one in self.when) and (not self.any or any(one.holds(facts) for one in self.any))

    def because(self, facts: Facts) -> tuple[str, ...]:
        """The facts that made it hold."""
        made = [*self.when, *(one for one in self.any if one.holds(facts))]
        return tuple(dict.fromkeys(name for one in made for name in one.facts))


@dataclass(frozen=True)
class Row:
    """One of the nine questions between RAG and fine-tuning: what each of the two does, and where it ``points`` when it applies."""

    rule: Rule
    ask: str
    rag: str
    tuned: str


@dataclass(frozen=True)
class Rules:
    """All of it, in the order of the file, which is the order in which gates, methods and next steps are tried."""

    facts: Mapping[str, Known]
    questions: tuple[Question, ...]
    rows: tuple[Row, ...]
    right: tuple[Rule, ...]
    wrong: tuple[Rule, ...]
    gates: tuple[Rule, ...]
    cautions: tuple[Rule, ...]
    methods: tuple[Rule, ...]
    contradictions: tuple[Rule, ...]
    steps: tuple[Rule, ...]


@cache
def rules() -> Rules:
    """The rules that come with mlxtune."""
    return read(files("mlxtune.advice").joinpath("rules.toml").read_text(encoding="utf-8"))


def read(text: str) -> Rules:
    """The rules in ``text``. Raises ``InputError`` for a fact, an answer or a verdict that does not exist."""
    data = tomllib.loads(text)
    facts = {name: Known(entry["from"], entry["label"], entry.get("unit", "")) for name, entry in data["facts"].items()}
    questions = tuple(Question(**{"options": {}, **entry}) for entry in data["question"])
    answers = {question.key: question for question in questions}

    def some(section: str) -> tuple[Rule, ...]:
        return tuple(_rule(section, at, entry, facts, answers) for at, entry in enumerate(data[section], 1))

    rows = tuple(
        Row(_rule("row", at, entry, facts, answers), entry["ask"], entry["rag"], entry["tuned"])
        for at, entry in enumerate(data["row"], 1)
    )
    return Rules(
        facts, questions, rows, some("right"), some("wrong"), some("gate"), some("caution"), some("method"), some("contradiction"),
        some("next"),
    )  # fmt: skip


def _rule(section: str, at: int, entry: Mapping[str, Any], facts: Mapping[str, Known], answers: Mapping[str, Question]) -> Rule:
    key = entry.get("key") or entry.get("name") or f"{entry.get('verdict', '')} {at}".strip()
    where = f"{section} {key}"
    when, any_ = (_conditions(entry.get(name, ()), where, facts, answers) for name in ("when", "any"))
    verdict, points = entry.get("verdict", ""), entry.get("points", "fine-tune" if section == "right" else "")
    if verdict not in ("", *VERDICTS) or points not in ("", "rag", "fine-tune"):
        raise InputError(f"{where}: there is no verdict “{verdict or points}”.")
    text = entry.get("why") or entry.get("text") or ""
    return Rule(
        section, key, when, any_, text, entry.get("changes", ""), entry.get("next", ""), entry.get("source", ""), points, verdict
    )


def _conditions(
    texts: Sequence[str], where: str, facts: Mapping[str, Known], answers: Mapping[str, Question]
) -> tuple[Condition, ...]:  # fmt: skip
    found = tuple(parse(text, facts, where) for text in texts)
    for one in found:
        question = answers.get(one.fact)
        if question is None or not question.options or one.word not in (*SETS, "is"):
            continue
        for value in one.value.split("|"):
            if value not in question.options:
                raise InputError(f"{where}: {one.fact} cannot be {value}.", mend=f"It is one of {', '.join(question.options)}.")
    return found
