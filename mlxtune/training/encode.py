"""Encode rows as tokens, and collect errors for all rows that cannot be trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlxtune.core.errors import DataError, TemplateError, TooLongError
from mlxtune.core.text import plural
from mlxtune.data.rows import Location, Row, TextRow
from mlxtune.data.template_notes import TemplateNote
from mlxtune.models.encoded import Encoded, EncodedPair
from mlxtune.models.template import ChatTemplate
from mlxtune.planning.workload import RowLength
from mlxtune.recipe import Recipe

MAX_LISTED = 5  # rows listed in an error


class SkippedRow(NamedTuple):
    """A row that is not trained on, where it is, and the reason."""

    id: str
    location: Location
    reason: str


@dataclass(frozen=True)
class EncodedRows:
    """``rows`` are ``Encoded`` or ``EncodedPair``; ``skipped`` has the rows that are too long."""

    rows: list[Any]
    skipped: list[SkippedRow]


def encode(template: ChatTemplate, rows: Sequence[Row], recipe: Recipe) -> EncodedRows:
    """Encode ``rows`` for the recipe's method.

    Raise a ``DataError`` that lists up to ``MAX_LISTED`` unusable rows, or ``TemplateError`` if no row can be trained with the template.
    """
    if any(not isinstance(row, TextRow) for row in rows):
        template.check_trainable()
    window = recipe.data.max_tokens
    encoded: list[Any] = []
    skipped: list[SkippedRow] = []
    errors: list[DataError | TemplateError] = []
    for index, row in enumerate(rows):
        try:
            match recipe.method.kind:
                case "sft":
                    encoded += template.encode(row, window)
                case "dpo":
                    encoded.append(template.encode_pair(row, window))
                case "kto":
                    encoded.append(template.encode_unpaired(row, rows[index - 1], window))
        except TooLongError as error:
            if recipe.data.too_long == "skip":
                skipped.append(SkippedRow(row.id, row.location, error.message))
            else:
                errors.append(error)
        except (DataError, TemplateError) as error:
            errors.append(error)
    if errors:
        raise _combined(errors, len(rows))
    if rows and not encoded:
        raise DataError(f"None of {plural(len(rows), 'row')} fits in data.max_tokens.", hint="Raise data.max_tokens.")
    return EncodedRows(encoded, skipped)


def count_notes(rows: Sequence[Encoded | EncodedPair]) -> dict[TemplateNote, int]:
    """Return the changes that the template makes, with the number of affected rows in the source; several of ``rows`` may come from
    one of them."""
    changes = {(row.id, note) for row in rows for note in row.notes}
    return {note: count for note in TemplateNote if (count := sum(note == other for _, other in changes))}


def row_lengths(rows: Sequence[Encoded | EncodedPair]) -> tuple[RowLength, ...]:
    """Return the length of each encoded row, for planning."""
    lengths = []
    for row in rows:
        if isinstance(row, Encoded):
            trained, prompt = int(row.trained[1:].sum()), int(row.trained.argmax())
            lengths.append(RowLength(row.full_length, trained, prompt, unprefixed=row.unprefixed))
        else:
            prompt, common, (chosen, rejected) = len(row.prompt), row.common_length, row.full_lengths
            sides = (prompt + common, chosen - common, rejected - common)
            lengths.append(RowLength(prompt + max(row.full_lengths), len(row.chosen) + len(row.rejected), prompt, sides))
    return tuple(lengths)


def _combined(errors: Sequence[DataError | TemplateError], total: int) -> DataError | TemplateError:
    if len(errors) == 1:
        return errors[0]
    listed = [error.message for error in errors[:MAX_LISTED]]
    if len(errors) > MAX_LISTED:
        listed.append(f"and {plural(len(errors) - MAX_LISTED, 'more row')}")
    hint = errors[0].hint
    if any(isinstance(error, TooLongError) for error in errors):
        hint = 'Raise data.max_tokens, or skip such rows: too_long = "skip" in [data].'
    kind = TemplateError if all(isinstance(error, TemplateError) for error in errors) else DataError
    return kind(f"{len(errors)} of {plural(total, 'row')} cannot be used:\n  " + "\n  ".join(listed), hint=hint)
