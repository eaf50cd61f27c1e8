"""Scorers: one small file each, with one function from an :class:`Answer` to a :class:`Score`.

A new one is such a file, and a line in ``contract.py`` that gives it a name and says whether the contract asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What is scored: the text, why it ended (``stop``, ``length``), the answer that the data gives, and what was asked."""

    output: str
    ended: str = "stop"
    reference: str | None = None
    prompt: str = ""


@dataclass(frozen=True)
class Score:
    """Whether an output holds, and if not, a short class of failure and a sentence about this one.

    ``value``, from 0 to 1, is how much of it holds, for scorers that know.
    """

    holds: bool
    kind: str = ""
    why: str = ""
    value: float | None = None


HOLDS = Score(True)
