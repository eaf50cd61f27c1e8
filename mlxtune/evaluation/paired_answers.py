"""Load two arms' answers to the rows of a finished evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, suggest
from mlxtune.data.rows import Message
from mlxtune.evaluation.evidence import load_evidence


@dataclass(frozen=True)
class AnswerPair:
    """A held-out row with two arms' answers; ``reference`` may be empty. Rows in the same ``group`` are not independent."""

    id: str
    prompt: tuple[Message, ...]
    reference: str
    group: str
    first: str
    second: str
    tools: tuple[Any, ...] = ()


def load_pairs(folder: Path, first: str, second: str) -> tuple[AnswerPair, ...]:
    """Return the rows that both arms answered, in order. Raises ``InputError`` for an unknown arm or missing answers."""
    if first == second:
        raise InputError(f"{one_line(first, 40)} cannot be compared with itself.", hint="Specify two different arms.")
    evidence = load_evidence(folder)
    for arm in (first, second):
        if arm not in evidence.answers:
            raise InputError(f"{folder.name} has no arm named {one_line(arm, 40)}.", hint=suggest(arm, evidence.answers))
    one, two = ({answer.id: answer.output for answer in evidence.answers[arm]} for arm in (first, second))
    return tuple(
        AnswerPair(row.id, row.prompt, row.reference or "", row.group, one[row.id], two[row.id], row.tools)
        for row in evidence.rows
        if row.id in one and row.id in two
    )
