"""Parse, save and load interview answers, and describe an answers file with a JSON Schema."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.advice.rules import Fact, InterviewQuestion, rules
from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.text import nearest, one_line, suggest

FILE = "advice.json"  # in the workspace; contains the most recent answers


Answers = Mapping[str, Fact]  # by question: a name, a set of names, or a number


def answers_json(answers: Answers) -> dict[str, Any]:
    """Return answers in the form stored in an answers file."""
    return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in answers.items()}


def parse_answers(given: Mapping[str, Any], where: str = "answers") -> Answers:
    """Check all answers. Raise an ``InputError`` that names the key if it is unknown, missing or has an invalid value."""
    questions = {question.key: question for question in rules().questions}
    for key in given:
        if key not in questions:
            hint = suggest(str(key), questions, "Questions:")
            raise InputError(f"{where}: there is no question named {one_line(str(key), 60)}.", hint=hint)
    return {key: parse_answer(question, given.get(key), where) for key, question in questions.items()}


def parse_answer(question: InterviewQuestion, value: Any, where: str = "answer") -> Fact:
    """Check one answer; ``None`` selects the default. Raise ``InputError`` if it is invalid."""
    value = question.default if value is None else value
    if value in (None, ""):
        raise InputError(f"{where}: {question.key} is not answered.", hint=f"{question.ask} {_expected(question)}")
    match question.kind:
        case "number":
            low = -math.inf if question.least is None else question.least
            if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= (question.most or math.inf):
                return value
        case "one":
            if isinstance(value, str) and value in question.options:
                return value
        case "some":
            if isinstance(value, list | tuple | set | frozenset) and all(str(item) in question.options for item in value):
                return frozenset(map(str, value))
    wrong = [str(item) for item in (value if isinstance(value, list) else [value]) if str(item) not in question.options]
    suggestion = nearest(wrong[0], question.options) if wrong and question.options else None
    shown = one_line(", ".join(wrong) or str(value), 60)
    hint = f"Did you mean {suggestion}?" if suggestion else _expected(question)
    raise InputError(f"{where}: {question.key} cannot be {shown}.", hint=hint)


def parse_number(text: str) -> int | float | None:
    """Return ``text``, which may contain commas, as a finite number; ``None`` if it is not a number."""
    try:
        value = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        return None
    return None if not math.isfinite(value) else int(value) if value.is_integer() else value


def read_answers(path: Path) -> Answers:
    """Read an answers file. Raise ``InputError`` if it is invalid."""
    given = read_json(path)
    if not isinstance(given, dict):
        raise InputError(f"{path} must contain one JSON object with a key for each question.", hint="mlxtune advise --questions")
    return parse_answers(given, str(path))


def load_last(workspace: Path) -> Answers | None:
    """Return the most recent answers in ``workspace``; ``None`` if there are none or they do not match these questions."""
    try:
        return read_answers(workspace / FILE)
    except InputError:
        return None


def save_answers(workspace: Path, answers: Answers) -> None:
    """Save ``answers`` as the most recent ones. Raise ``MachineError`` if the disk is full or read-only."""
    write_json(workspace / FILE, answers_json(answers))


def schema() -> dict[str, Any]:
    """Return the JSON Schema for an answers file (draft 2020-12)."""
    properties: dict[str, Any] = {}
    for question in rules().questions:
        options = [{"const": name, "description": meaning} for name, meaning in question.options.items()]
        match question.kind:
            case "some":
                entry: dict[str, Any] = {"type": "array", "uniqueItems": True, "items": {"oneOf": options}}
            case "one":
                entry = {"oneOf": options}
            case "number":
                bounds = {"minimum": question.least, "maximum": question.most}
                entry = {"type": "number"} | {name: value for name, value in bounds.items() if value is not None}
        properties[question.key] = {"description": question.ask, **entry}
        if question.default is not None:
            properties[question.key]["default"] = question.default
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Answers for mlxtune advise", "type": "object",
        "properties": properties, "additionalProperties": False,
        "required": [question.key for question in rules().questions if question.default is None],
    }  # fmt: skip


def _expected(question: InterviewQuestion) -> str:
    if question.kind == "number":
        low = "" if question.least is None else f" from {question.least:g}"
        high = "" if question.most is None else f" to {question.most:g}"
        return f"Use a number{low}{high}."
    return f"Use {'one' if question.kind == 'one' else 'a list'} of {', '.join(question.options)}."
