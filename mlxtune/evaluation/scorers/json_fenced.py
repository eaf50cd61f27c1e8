"""Is the output exactly one code fence with JSON in it, and nothing else?"""

from __future__ import annotations

import re

from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_text import Refused, parse

_OPENS = re.compile(r" {0,3}(`{3,}|~{3,})[^`]*")
_CLOSES = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*")


def json_fenced(answer: Answer) -> Score:
    """Whether the output is one fence (CommonMark 0.31, section 4.5) around a JSON text. Raw JSON is no fence."""
    first, *rest = answer.output.strip().split("\n")
    opening = _OPENS.fullmatch(first.rstrip("\r"))
    if not opening:
        kind = "text before the fence" if any(map(_OPENS.fullmatch, rest)) else "no fence"
        return Score(False, kind, "it does not begin with a code fence")
    fence = opening[1]
    ends = [at for at, line in enumerate(rest) if (end := _CLOSES.fullmatch(line.rstrip("\r"))) and end[1].startswith(fence)]
    if not ends:
        return Score(False, "open fence", "the code fence is not closed")
    if ends[0] + 1 < len(rest):
        return Score(False, "more than a fence", "something follows the code fence")
    try:
        parse("\n".join(rest[: ends[0]]))
    except Refused as refused:
        return Score(False, refused.kind, str(refused))
    return HOLDS
