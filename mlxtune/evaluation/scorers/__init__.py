"""Scorers: one small file each, with one function from an output to a :class:`Score`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Whether an output holds, and if not, a short class of failure and a sentence about this one."""

    holds: bool
    kind: str = ""
    why: str = ""


HOLDS = Score(True)
