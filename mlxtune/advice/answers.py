"""The interview's answers: checked, kept in the workspace, and described for whoever writes them by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.advice.conditions import Fact
from mlxtune.advice.rules import Question, rules
from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.text import nearest, one_line

FILE = "advice.json"  # in the workspace: what was answered last


@dataclass(frozen=True)
class Answers:
    """One value for each question: a name, a set of names, or a number."""

    values: Mapping[str, Fact]

    def as_json(self) -> dict[str, Any]:
        """As an answers file holds them."""
        return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in self.values.items()}


def check(given: Mapping[str, Any], where: str = "answers") -> Answers:
    """``given`` as answers. Raises ``InputError`` that names the key: an unknown one, a missing one, or one with a value that it cannot have."""
    questions = {question.key: question for question in rules().questions}
    for key in given:
        if key not in questions:
            hint = nearest(str(key), questions)
            raise InputError(
                f"{where}: there is no question {one_line(str(key), 60)}.",
                mend=f"Did you mean {hint}?" if hint else f"There are {', '.join(questions)}.",
            )
    return Answers({key: _value(question, given, where) for key, question in questions.items()})


def one(question: Question, value: Any) -> Fact:
    """``value`` as the answer to ``question``. Raises ``InputError`` when it cannot be."""
    return _value(question, {question.key: value}, "answer")


def number(text: str) -> int | float | None:
    """``text`` as a finite number, with or without commas; ``None`` if it is none."""
    try:
        value = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        return None
    return None if not math.isfinite(value) else int(value) if value.is_integer() else value


def read(path: Path) -> Answers:
    """The answers in the file ``path``. Raises ``InputError``."""
    given = read_json(path)
    if not isinstance(given, dict):
        raise InputError(f"{path} must hold one JSON object, with a key for each question.", mend="mlxtune advise --questions")
    return check(given, str(path))


def last(workspace: Path) -> Answers | None:
    """What was answered last in ``workspace``; ``None`` where nothing was, or not by these questions."""
    try:
        return read(workspace / FILE)
    except InputError:
        return None


def keep(workspace: Path, answers: Answers) -> None:
    """Write ``answers`` down for the next time. Raises ``MachineError`` when the disk is full or read-only."""
    write_json(workspace / FILE, answers.as_json())


def schema() -> dict[str, Any]:
    """A JSON Schema of an answers file (draft 2020-12)."""
    properties: dict[str, Any] = {}
    for question in rules().questions:
        options = [{"const": name, "description": meaning} for name, meaning in question.options.items()]
        match question.kind:
            case "some":
                kind: dict[str, Any] = {"type": "array", "uniqueItems": True, "items": {"oneOf": options}}
            case "one":
                kind = {"oneOf": options}
            case _:
                kind = {"type": "number"}
                kind |= {
                    name: value for name, value in (("minimum", question.least), ("maximum", question.most)) if value is not None
                }
        properties[question.key] = {"description": question.ask, **kind}
        if question.default is not None:
            properties[question.key]["default"] = question.default
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Answers for mlxtune advise", "type": "object",
        "properties": properties, "additionalProperties": False,
        "required": [question.key for question in rules().questions if question.default is None],
    }  # fmt: skip


def _value(question: Question, given: Mapping[str, Any], where: str) -> Fact:
    value = given.get(question.key, question.default)
    if value in (None, ""):
        raise InputError(f"{where}: {question.key} is not answered.", mend=f"{question.ask} {_expected(question)}")
    match question.kind:
        case "number":
            low, high = (-float("inf") if question.least is None else question.least), question.most or float("inf")
            if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
                return value
        case "one":
            if isinstance(value, str) and value in question.options:
                return value
        case _:
            if isinstance(value, list | tuple | set | frozenset) and all(item in question.options for item in map(str, value)):
                return frozenset(map(str, value))
    wrong = [str(item) for item in (value if isinstance(value, list) else [value]) if str(item) not in question.options]
    hint = nearest(wrong[0], question.options) if wrong and question.options else None
    shown = one_line(", ".join(wrong) or str(value), 60)
    raise InputError(
        f"{where}: {question.key} cannot be {shown}.", mend=f"Did you mean {hint}?" if hint else _expected(question)
    )  # fmt: skip


def _expected(question: Question) -> str:
    """What may stand there."""
    if question.kind == "number":
        return f"A number{'' if question.least is None else f' from {question.least:g}'}{'' if question.most is None else f' to {question.most:g}'}."
    return f"{'One' if question.kind == 'one' else 'A list'} of {', '.join(question.options)}."
