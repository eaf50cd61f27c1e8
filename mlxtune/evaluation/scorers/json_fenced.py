"""Fenced JSON: the output is exactly one code fence with JSON inside."""

from __future__ import annotations

import re

from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, parse_json

_OPENS = re.compile(r" {0,3}(`{3,}|~{3,})[^`]*")
_CLOSES = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*")


def score_fenced(answer: ModelAnswer) -> Score:
    """Score whether the output is one fence (CommonMark 0.31, section 4.5) around a JSON text. Raw JSON fails."""
    first, *rest = answer.output.strip().split("\n")
    opening = _OPENS.fullmatch(first.rstrip("\r"))
    if not opening:
        kind = "text_before_the_fence" if any(map(_OPENS.fullmatch, rest)) else "no_fence"
        return Score(False, kind, "the output does not start with a code fence")
    fence = opening[1]
    ends = [index for index, line in enumerate(rest) if (end := _CLOSES.fullmatch(line.rstrip("\r"))) and end[1].startswith(fence)]
    if not ends:
        return Score(False, "open_fence", "the code fence is not closed")
    if ends[0] + 1 < len(rest):
        return Score(False, "more_than_a_fence", "text follows the code fence")
    try:
        parse_json("\n".join(rest[: ends[0]]))
    except InvalidJSON as error:
        return Score(False, error.kind, str(error))
    return PASS


SCORER = Scorer(
    "fenced", "JSON in a fence", lambda contract: score_fenced if contract.wants_json else None, required=False, is_form=True
)
