"""Berkeley Function Calling Leaderboard (Patil et al. 2025), simple Python: one function, one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sources import Row, lines, shuffled, with_validation

_DATA = "berkeley-function-call-leaderboard/bfcl_eval/data"
_FILE = "BFCL_v4_simple_python.json"
_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Split the questions, which have no training set: ``rows`` to train and validate on, and the others held out."""
    answers = {answer["id"]: answer["ground_truth"][0] for answer in lines(files[f"{_DATA}/possible_answer/{_FILE}"])}
    questions = shuffled([question for question in lines(files[f"{_DATA}/{_FILE}"]) if question["id"] in answers])
    converted = [_row(question, answers[question["id"]]) for question in questions]
    return with_validation(converted[:rows], converted[rows:], rows, held_out)


def _row(question: Mapping[str, Any], answer: Mapping[str, Any]) -> Row:
    ((name, accepted),) = answer.items()
    call = {"type": "function", "function": {"name": name, "arguments": _arguments(accepted)}}
    tools = [
        {"type": "function", "function": function | {"parameters": _schema(function["parameters"])}}
        for function in question["function"]
    ]
    return {"messages": [*question["question"][0], {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": tools}


def _arguments(accepted: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the first accepted value of each argument, without those that may be left out."""
    return {name: _value(values[0]) for name, values in accepted.items() if "" not in values}


def _value(value: Any) -> Any:
    """Return an accepted value, in which objects list the accepted values of their keys."""
    if isinstance(value, dict):
        return _arguments(value)
    return [_value(one) for one in value] if isinstance(value, list) else value


def _schema(schema: Any) -> Any:
    """Return a JSON Schema for a schema in the leaderboard's types."""
    if isinstance(schema, list):
        return [_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _schema(value) for key, value in schema.items()}
    if isinstance(schema.get("type"), str):
        result["type"] = _TYPES.get(schema["type"], schema["type"])
        if result["type"] == "any":
            del result["type"]
    return result
