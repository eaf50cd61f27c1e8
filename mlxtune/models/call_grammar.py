"""The grammar of calls of given tools, as a chat template writes calls. The template's syntax is found by rendering test calls."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import TemplateError
from mlxtune.data.rows import Location, Message
from mlxtune.data.tool_schema import arguments_schema
from mlxtune.models.template import ChatTemplate

_NAMES, _ARGUMENTS = ("probe_first", "probe_second"), {"probe_key": "Probe value 3391"}
_TOOLS = tuple(
    {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}}}}
    for name in _NAMES
)  # fmt: skip


@dataclass(frozen=True)
class CallSyntax:
    """The texts around the name and the JSON arguments of a call. ``joint`` is between two calls, or ``None`` if there is only one."""

    before: str
    middle: str
    after: str
    joint: str | None


def call_syntax(template: ChatTemplate) -> CallSyntax | None:
    """Return how ``template`` writes calls, or ``None`` if it does not, if it writes arguments in another form than JSON, or if the
    calls cannot be read back."""
    if template.calls.format is None or (text := _answer(template, _NAMES[:1])) is None or (one := _parts(text)) is None:
        return None
    several = _answer(template, _NAMES) or ""
    first, second = (f"{name}{one[1]}" for name in _NAMES)
    head, _, rest = several.removesuffix(one[2]).partition(second)
    inside = head.removeprefix(one[0] + first) if rest else ""
    _, end = _json(inside) if inside else ({}, 0)
    return CallSyntax(*one, inside[end:] or None)


def calls_grammar(template: ChatTemplate, syntax: CallSyntax, tools: Sequence[dict[str, Any]], schema: Any) -> str:
    """Return a grammar in llguidance's Lark syntax of an answer that calls ``tools``.

    The arguments are those of a call of the tool in ``schema``, the contract's, if it has one, and otherwise as the tool declares.
    Several calls are allowed if ``schema`` allows a list.
    """
    text = _literals(template)
    functions = [tool.get("function", tool) for tool in tools]
    rules = [
        f"tool_{number}: {text(function['name'] + syntax.middle)} %json {json.dumps(_arguments(schema, function))}"
        for number, function in enumerate(functions)
    ]
    is_list = isinstance(schema, dict) and any(one.get("type") == "array" for one in schema.get("anyOf", ()))
    more = f" ({text(syntax.joint)} call)*" if syntax.joint and is_list else ""
    start = f"start: {text(syntax.before)} call{more} {text(syntax.after)}"
    return "\n".join([start, "call: " + " | ".join(f"tool_{number}" for number in range(len(rules))), *rules])


def _answer(template: ChatTemplate, names: Sequence[str]) -> str | None:
    """Return the text of an answer that calls the functions ``names``, without its stop token."""
    calls = [{"type": "function", "function": {"name": name, "arguments": _ARGUMENTS}} for name in names]
    turns = (Message("user", "Probe question 5141"), Message("assistant", "", {"tool_calls": calls}))
    try:
        span = template.answer(turns, _TOOLS, Location(Path(), 0))
    except TemplateError:
        return None
    text = str(template.tokenizer.decode(span.tokens[span.start : span.end]))
    return text.removesuffix(str(template.tokenizer.decode([span.tokens[span.end - 1]])))


def _parts(text: str) -> tuple[str, str, str] | None:
    """Return the texts before the name of the only call in ``text``, between it and its arguments, and after them."""
    before, name, rest = text.partition(_NAMES[0])
    middle = rest[: rest.find("{")] if name and "{" in rest else None
    if middle is None:
        return None
    value, end = _json(rest[len(middle) :])
    return (before, middle, rest[len(middle) + end :]) if value == _ARGUMENTS else None


def _json(text: str) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None, 0


def _arguments(schema: Any, function: Mapping[str, Any]) -> Any:
    schema = schema if isinstance(schema, dict) else {}
    definitions = schema.get("$defs", {})
    for branch in schema.get("oneOf") or schema.get("anyOf") or [schema]:
        found = definitions.get(str(branch.get("$ref")).removeprefix("#/$defs/"), branch)
        properties = found.get("properties", {})
        if properties.get("name", {}).get("const") == function["name"] and "arguments" in properties:
            return {**properties["arguments"], "$defs": definitions}
    return arguments_schema(dict(function))


def _literals(template: ChatTemplate) -> Any:
    """Return a function from a text to its part of a grammar. Control tokens are named by their numbers."""
    special = {token.content: id for id, token in template.tokenizer.added_tokens_decoder.items() if token.special}
    pattern = re.compile("(" + "|".join(map(re.escape, special)) + ")") if special else re.compile("(?!)")

    def literal(text: str) -> str:
        parts = [part for part in pattern.split(text) if part]
        return " ".join(f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts) or '""'

    return literal
