"""The length of the longest JSON text that a schema allows, if it limits its strings, arrays and objects."""

import json
from typing import Any

from mlxtune.evaluation.scorers.json_search import resolve_pointer

_SCALARS = {"null": 4, "boolean": 5, "integer": 24, "number": 24}  # a number of more characters has more digits than a double
_FORMATS = {"date": 10, "time": 20, "date-time": 35, "uuid": 36, "ipv4": 15, "ipv6": 45}
_DEPTH = 64


class _Unlimited(Exception):
    """A part of a schema whose length has no limit, or that is not understood."""


def longest_json(schema: Any) -> int | None:
    """Return the maximum number of characters, with a space after each comma and colon; ``None`` if it is unlimited or unknown."""
    try:
        return _longest(schema, schema, 0)
    except _Unlimited:
        return None


def _longest(schema: Any, root: Any, depth: int) -> int:
    if not isinstance(schema, dict) or depth > _DEPTH:
        raise _Unlimited
    if values := [schema["const"]] if "const" in schema else schema.get("enum"):
        return max(len(json.dumps(value, ensure_ascii=False)) for value in values)
    if str(schema.get("$ref", "")).startswith("#"):
        return _longest(resolve_pointer(root, schema["$ref"][1:]), root, depth + 1)
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return max(_longest(branch, root, depth + 1) for branch in branches)
    kinds = schema.get("type") or ["any"]
    return max(_longest_of(kind, schema, root, depth + 1) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _longest_of(kind: str, schema: dict[str, Any], root: Any, depth: int) -> int:
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind == "string" and (limit := schema.get("maxLength", _FORMATS.get(schema.get("format", "")))) is not None:
        return int(limit) + 2
    if kind == "array" and "maxItems" in schema and "prefixItems" not in schema:
        return 2 + int(schema["maxItems"]) * (2 + _longest(schema.get("items"), root, depth) if schema["maxItems"] else 0)
    if kind == "object" and schema.get("additionalProperties") is False and "patternProperties" not in schema:
        members = schema.get("properties", {}).items()
        return 2 + sum(len(json.dumps(name, ensure_ascii=False)) + 4 + _longest(value, root, depth) for name, value in members)
    raise _Unlimited
