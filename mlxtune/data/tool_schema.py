"""JSON Schemas of the calls of declared tools, in the form of a row's reference: ``{"name": …, "arguments": {…}}``."""

from collections.abc import Sequence
from typing import Any

Tools = Sequence[dict[str, Any]]

ARGUMENTS = ("arguments", "parameters")  # names of a call's arguments
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_PYTHON_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "dict": "object", "list": "array"}


def calls_schema(tools: Tools, *, several: bool = False, arguments: str = "arguments") -> dict[str, Any]:
    """Return the JSON Schema of one call of one of ``tools`` or, with ``several``, also of a list of calls."""
    calls = [_call(tool.get("function", tool), arguments) for tool in tools]
    one = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 2}]} if several else one


def arguments_schema(tool: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a tool's arguments. No others than the declared ones are allowed, unless it says so.

    The parameters may also be a plain object of names and descriptions, with Python's names of types, as in xLAM's sets.
    """
    given = tool.get("function", tool).get("parameters") or {}
    if "properties" not in given and given.get("type") != "object":
        given = {"properties": given, "required": [name for name, one in given.items() if "default" not in one]}
    properties = {name: _plain(one) for name, one in given.get("properties", {}).items()}
    return {"additionalProperties": False, **given, "type": "object", "properties": properties}


def union(lists: Sequence[Tools]) -> Tools | None:
    """Return the tools of all ``lists`` by name, or ``None`` if two with the same name differ."""
    known: dict[str, dict[str, Any]] = {}
    for tool in (tool for tools in lists for tool in tools):
        if known.setdefault(tool.get("function", tool)["name"], tool) != tool:
            return None
    return tuple(known.values())


def _call(function: dict[str, Any], key: str) -> dict[str, Any]:
    properties = {"name": {"const": function["name"]}, key: arguments_schema(function)}
    return {"type": "object", "properties": properties, "required": ["name", key], "additionalProperties": False}


def _plain(schema: Any) -> Any:
    """Return a parameter's schema without a default, and without a type that JSON Schema does not have."""
    if not isinstance(schema, dict):
        return {}
    kind = schema.get("type")
    if isinstance(kind, str) and kind not in _TYPES:
        kind = _PYTHON_TYPES.get(kind.partition("[")[0].partition(",")[0].strip().lower())
    rest = {key: value for key, value in schema.items() if key not in ("type", "default")}
    return {**rest, **({"type": kind} if kind else {})}
