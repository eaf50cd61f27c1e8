"""A finished evaluation, read back: what was asked, and what two arms answered. No mlx here: faces read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.text import nearest, one_line
from mlxtune.data.rows import Message
from mlxtune.evaluation.evidence import load_evidence


@dataclass(frozen=True)
class Pair:
    """One held-out row with two arms' answers; ``reference`` is empty where the data has no wanted answer.

    Rows of one ``group`` ask nearly the same and are no independent evidence.
    """

    id: str
    prompt: tuple[Message, ...]
    reference: str
    group: str
    first: str
    second: str
    tools: tuple[Any, ...] = ()


def pairs(folder: Path, first: str, second: str) -> tuple[Pair, ...]:
    """The rows of the evaluation in ``folder`` that both arms answered, in its order.

    Raises ``InputError`` when an arm is not there, or the evaluation keeps no evidence.
    """
    if first == second:
        raise InputError(f"{one_line(first, 40)} cannot be compared with itself.", mend="Name two arms.")
    evidence = load_evidence(folder)
    for arm in (first, second):
        if arm not in evidence.said:
            hint = nearest(arm, evidence.said) or ", ".join(evidence.said)
            raise InputError(f"{folder.name} has no arm {one_line(arm, 40)}.", mend=f"It has: {one_line(hint, 200)}.")
    one, two = ({answer.id: answer.output for answer in evidence.said[arm]} for arm in (first, second))
    return tuple(
        Pair(row.id, row.prompt, row.reference or "", row.group, one[row.id], two[row.id], row.tools)
        for row in evidence.asked
        if row.id in one and row.id in two
    )
