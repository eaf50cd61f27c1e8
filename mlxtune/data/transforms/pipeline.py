"""Pipelines: steps that change many rows at once, as one line or as a file with one step per line.

    normalize | trim
    where tag:billing
    replace /(\\d+) USD/$\\1/ in assistant
    where | cap category 200

Steps run in order and are separated by ``|`` or line breaks; ``#`` begins a comment line. Relative paths are relative to the folder
of the file, or to the working directory. ``@FILE`` as the whole line reads a file. To add a verb, add it to the ``VERBS`` of
``text_verbs`` or ``row_verbs``.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import read_text, user_path
from mlxtune.core.text import one_line, suggest
from mlxtune.data.filters import FilterRow
from mlxtune.data.readers.formats import CONTENT_FORMATS
from mlxtune.data.readers.formats import parse as parse_row
from mlxtune.data.review import EXCLUDED
from mlxtune.data.rows import Row, RowError
from mlxtune.data.transforms import row_verbs, text_verbs
from mlxtune.data.transforms.transform import ADDED, ArgumentScanner, PipelineRow, Rewrite, Rows, Step

VERBS = {verb.name: verb for verb in (*text_verbs.VERBS, *row_verbs.VERBS)}
_COMMENT = re.compile(r"^[^\S\n]*#[^\n]*", re.MULTILINE)
_SEPARATOR = re.compile(r"[\s|]*")
_VERB = re.compile(r"[^\s|]+")


@dataclass(frozen=True)
class RowEdit:
    """The effect of a pipeline on one row: ``before``, and the rows ``after`` (none if it is left out, or several).

    ``index`` is the row's position in the source, or :data:`ADDED` with ``before`` as ``None``. With an ``error``, the row stays.
    """

    index: int
    before: Row | None
    after: tuple[Row, ...]
    error: str = ""


@dataclass(frozen=True)
class Pipeline:
    """Parsed steps. ``text`` is what they were parsed from, and ``fields`` are those of the filters in it."""

    text: str
    steps: tuple[Step, ...]
    fields: frozenset[str] = frozenset()

    def run(self, rows: Rows) -> Iterator[PipelineRow]:
        """Yield the rows after all steps, in order."""
        for step in self.steps:
            rows = step.bind(rows)
        return rows()

    def edits(self, indices: Sequence[int], row_at: Callable[[int], FilterRow]) -> Iterator[RowEdit]:
        """Yield the changes to the rows at ``indices`` (ascending), which ``row_at`` returns one at a time.

        Invalid and rejected rows are not touched. A row is left unchanged, with an error, if a step fails or its result is not a
        valid row.
        """
        errors: dict[int, str] = {}

        def source() -> Iterator[PipelineRow]:
            for index in indices:
                row = row_at(index)
                with suppress(DataError):  # a row that cannot be read
                    if row.decision.status not in EXCLUDED:
                        yield PipelineRow(index, row.current, row)

        guarded = replace(self, steps=tuple(_guarded(step, errors) for step in self.steps))
        outputs = groupby(guarded.run(source), key=lambda row: row.index)
        index, after = next(outputs, (None, iter(())))
        for before in source():
            rows: tuple[Row, ...] = ()
            if index == before.index:
                rows = tuple(row.current for row in after)
                index, after = next(outputs, (None, iter(())))
            if error := errors.pop(before.index, ""):
                yield RowEdit(before.index, before.current, (before.current,), error)
            elif not _is_same(before.current, rows):
                yield _validated(RowEdit(before.index, before.current, rows))
        if index == ADDED:
            yield from (RowEdit(ADDED, None, (row.current,)) for row in after)


def _guarded(step: Step, errors: dict[int, str]) -> Step:
    """Return ``step``, modified to leave a row on which it fails unchanged and to store the error in ``errors`` under the row's index."""
    if not isinstance(step, Rewrite):
        return step
    rewrite = step.rewrite

    def guarded(row: PipelineRow) -> Sequence[Row]:
        try:
            return rewrite(row)
        except DataError as error:
            errors[row.index] = error.reason if isinstance(error, RowError) else error.message
            return [row.current]

    return replace(step, rewrite=guarded)


def _is_same(before: Row, after: tuple[Row, ...]) -> bool:
    if len(after) != 1:
        return False
    row = after[0]
    return row is before or (row.content == before.content and row.meta == before.meta)


def _validated(edit: RowEdit) -> RowEdit:
    """Return ``edit``, or one with an error that changes nothing if it makes an invalid row."""
    assert edit.before is not None
    try:
        for row in edit.after:
            if row.content != edit.before.content:
                parse_row(row.content, row.location, CONTENT_FORMATS[type(row)])
    except RowError as error:
        return replace(edit, after=(edit.before,), error=error.reason)
    return edit


def parse(text: str, folder: Path, including: frozenset[Path] = frozenset()) -> Pipeline:
    """Parse a pipeline, which the files ``including`` name. Raises ``InputError`` that says which step is invalid, with the verb's usage as the hint."""
    if text.strip().startswith("@"):
        file = folder / user_path(text.strip()[1:])
        try:
            if (real := file.resolve()) in including:
                raise InputError(f"{one_line(str(file), 100)} includes itself.")
            return parse(read_text(file), file.parent, including | {real})
        except (OSError, ValueError) as error:
            raise InputError(
                f"{one_line(str(file), 100)} cannot be read.", hint="Use @PATH, with the path of a text file."
            ) from error
    scanner = ArgumentScanner(_COMMENT.sub("", text), folder)
    steps: list[Step] = []
    while (start := _SEPARATOR.match(scanner.text, scanner.position)) and start.end() < len(scanner.text):
        word = _VERB.match(scanner.text, start.end())
        assert word
        verb = VERBS.get(word[0])
        if verb is None:
            raise InputError(f"Unknown verb {one_line(word[0], 30)}.", hint=suggest(word[0], VERBS))
        scanner.verb, scanner.position = verb, word.end()
        step = verb.parse(scanner)
        steps.append(step)
        if not scanner.at_end:
            rest = one_line(scanner.text[scanner.position :].strip(), 30)
            raise scanner.error(f"{verb.name}: unexpected {rest}. Separate steps with |.")
    if not steps:
        raise InputError("The pipeline has no steps.", hint=f"Begin with a verb: {', '.join(VERBS)}.")
    summary = " | ".join(line for part in scanner.text.splitlines() if (line := part.strip().strip("|").strip()))
    return Pipeline(summary, tuple(steps), frozenset(scanner.fields))
