"""Rows as tokens, all of them, and one answer to all that cannot be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.core.errors import DataError, TooLongError
from mlxtune.core.text import plural
from mlxtune.data.rows import Row
from mlxtune.models.template import ChatTemplate, Encoded, EncodedPair
from mlxtune.planning.workload import Length
from mlxtune.recipe import Recipe


@dataclass(frozen=True)
class EncodedRows:
    """``rows`` are ``Encoded`` or ``EncodedPair``; ``skipped`` are the ids of rows that the window leaves nothing of, each with why."""

    rows: list[Any]
    skipped: dict[str, str]


def encode(template: ChatTemplate, rows: Sequence[Row], recipe: Recipe) -> EncodedRows:
    """``rows`` as the recipe's method trains on them.

    Raises ``DataError`` for all that cannot be used, the first five by name, ``TemplateError`` for a template that hides what trains.
    """
    made: list[Any] = []
    skipped: dict[str, str] = {}
    bad: list[DataError] = []
    for at, row in enumerate(rows):
        try:
            made.append(_encoded(template, row, rows[at - 1], recipe))
        except TooLongError as error:
            if recipe.data.too_long == "skip":
                skipped[row.id] = error.message
            else:
                bad.append(error)
        except DataError as error:
            bad.append(error)
    if bad:
        raise _together(bad, len(rows))
    if rows and not made:
        raise DataError(f"All {plural(len(rows), 'row')} are longer than data.max_tokens.", mend="Raise data.max_tokens.")
    return EncodedRows(made, skipped)


def _encoded(template: ChatTemplate, row: Row, before: Row, recipe: Recipe) -> Encoded | EncodedPair:
    window = recipe.data.max_tokens
    match recipe.method.kind:
        case "dpo":
            return template.pair(row, window)
        case "kto":
            return template.unpaired(row, before, window)
    return template.encode(row, window)


def _together(bad: Sequence[DataError], count: int) -> DataError:
    if len(bad) == 1:
        return bad[0]
    shown = [error.message for error in bad[:5]]
    more = [f"and {plural(len(bad) - 5, 'more row')}"] if len(bad) > 5 else []
    mend = bad[0].mend
    if any(isinstance(error, TooLongError) for error in bad):
        mend = 'Raise data.max_tokens, or leave such rows out: too_long = "skip" in [data].'
    return DataError(f"{plural(len(bad), 'row')} of {count:,} cannot be used:\n  " + "\n  ".join([*shown, *more]), mend=mend)


def measure(rows: Sequence[Any]) -> tuple[Length, ...]:
    """The lengths of encoded rows, as planning takes them."""
    return tuple(_length(row) for row in rows)


def _length(row: Encoded | EncodedPair) -> Length:
    if isinstance(row, Encoded):
        return Length(row.full, int(row.trained[1:].sum()), int(row.trained.argmax()))
    prompt, common = len(row.prompt), row.common
    chosen, rejected = row.uncut
    sides = (prompt + common, chosen - common, rejected - common)
    return Length(prompt + max(row.uncut), len(row.chosen) + len(row.rejected), prompt, sides)
