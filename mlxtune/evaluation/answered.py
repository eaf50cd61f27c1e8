"""A finished evaluation, read back: what was asked, and what each arm answered. No mlx here: faces read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.core.journal import read
from mlxtune.core.text import nearest, one_line, plural
from mlxtune.data.rows import Conversation, Message
from mlxtune.data.source import read_source
from mlxtune.data.split import group
from mlxtune.runs.registry import Run

OUTPUTS = "outputs.jsonl"


@dataclass(frozen=True)
class Pair:
    """One held-out row with two arms' answers. Rows of one ``group`` ask the same and are no independent evidence."""

    id: str
    prompt: tuple[Message, ...]
    reference: str
    group: str
    first: str
    second: str


def pairs(folder: Path, first: str, second: str) -> tuple[Pair, ...]:
    """The rows of the evaluation in ``folder`` that both arms answered, in its order.

    Raises ``InputError`` when an arm is not there, and when the source no longer holds the rows that were asked.
    """
    if first == second:
        raise InputError(f"{one_line(first, 40)} cannot be compared with itself.", mend="Name two arms.")
    arms = _arms(folder / OUTPUTS)
    for arm in (first, second):
        if arm not in arms:
            hint = nearest(arm, arms) or ", ".join(arms)
            raise InputError(f"{folder.name} has no arm {one_line(arm, 40)}.", mend=f"It has: {one_line(hint, 200)}.")
    recipe = Run(folder).recipe()
    rows = read_source(recipe.source, recipe.data.format).rows
    asked = {row.id: row for row in rows if isinstance(row, Conversation)}
    gone = [id for id in arms[first] if id not in asked]
    if gone:
        raise InputError(
            f"{plural(len(gone), 'row')} of {folder.name} no longer stand in its source: {one_line(', '.join(gone[:5]), 100)}.",
            mend="Evaluate again: mlxtune eval",
        )
    return tuple(
        Pair(id, asked[id].prompt, asked[id].reference, group(asked[id], recipe.data.group_by), arms[first][id], arms[second][id])
        for id in arms[first]
        if id in arms[second]
    )


def _arms(file: Path) -> dict[str, dict[str, str]]:
    if not file.is_file():
        raise InputError(f"{file} does not exist.", mend="Name a finished evaluation: a folder below evals/.")
    found: dict[str, dict[str, str]] = {}
    for number, record in enumerate(read(file), 1):
        match record:
            case {"id": str(id), "arm": str(arm), "output": str(output)}:
                found.setdefault(arm, {})[id] = output
            case _:
                raise InputError(f'{file}, line {number}: not of the form {{"id": …, "arm": …, "output": …}}.')
    return found
