"""Is the whole output one JSON text (RFC 8259)? Fences, prose around it, NaN and trailing commas are all no."""

from __future__ import annotations

import json
import re
from typing import Any

from mlxtune.evaluation.scorers import HOLDS, Score

DEPTH = 512  # deeper nesting is refused, as RFC 8259 section 9 allows

# A string runs to its end or to the end of the text, so that no input makes the search go back.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{\]}]', re.DOTALL)


class _Refused(ValueError):
    pass


def _constant(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 4000 else float("inf") * (-1 if digits.startswith("-") else 1)


def parse(output: str) -> Any:
    """The value of a JSON text, raw. Raises ``ValueError`` with the reason; never anything else."""
    depth = deepest = 0
    for bracket in _TOKENS.findall(output):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    if deepest > DEPTH:
        raise _Refused(f"nested more than {DEPTH} deep")
    return json.loads(output, parse_constant=_constant, parse_int=_integer)


def json_valid(output: str, ended: str = "stop") -> Score:
    """Whether ``output`` is raw-valid JSON; ``ended`` = "length" says that it was cut at the token limit."""
    try:
        parse(output)
    except ValueError as error:
        return Score(False, _kind(output, ended), str(error))
    return HOLDS


def _kind(output: str, ended: str) -> str:
    text = output.strip()
    if not text:
        return "empty"
    if "```" in text:
        return "fence"
    if ended == "length":
        return "cut off"
    if text[0] not in "{[":
        return "prose"
    try:
        _, end = json.JSONDecoder(parse_constant=_constant, parse_int=_integer).raw_decode(text)
    except _Refused:
        return "syntax"
    except (ValueError, RecursionError) as error:
        return "unbalanced" if text.count("{") != text.count("}") or text.count("[") != text.count("]") else _syntax(str(error))
    return "text after it" if end < len(text) else "syntax"


def _syntax(message: str) -> str:
    if "property name" in message or "trailing comma" in message:  # Python 3.13 says the second
        return "quotes or comma"
    return "control character" if "control character" in message.lower() else "syntax"
