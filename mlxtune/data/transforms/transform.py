"""The parts of a transform: the verbs of the language, the steps that they parse to, and the rows between steps.

A step is a pure function of the rows that reach it. Steps stream: only :class:`Selection` reads its rows twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, suggest
from mlxtune.data.filters import Filter, FilterRow, SearchTime, fields
from mlxtune.data.review import Decision
from mlxtune.data.rows import Row
from mlxtune.data.split import SplitName

ADDED = -1  # the index of a row that is not in the source


@dataclass(frozen=True)
class PipelineRow:
    """A row between two steps. ``index`` is the position of the source's row that it comes from, ``source`` that row.

    It can be filtered like any other row.
    """

    index: int
    current: Row
    source: FilterRow | None = None

    @property
    def row(self) -> Row:
        return self.current if self.source is None else self.source.row

    @property
    def decision(self) -> Decision:
        return Decision(self.current.hash, self.current.hash) if self.source is None else self.source.decision

    @property
    def findings(self) -> Collection[str]:
        return () if self.source is None else self.source.findings

    @property
    def split(self) -> SplitName | None:
        return None if self.source is None else self.source.split

    @property
    def tokens(self) -> int:
        return -1 if self.source is None else self.source.tokens


Rows = Callable[[], Iterator[PipelineRow]]  # can be read more than once


@dataclass(frozen=True)
class Rewrite:
    """Replaces each row that matches ``where`` by none, one or several rows. Returning the same object means no change.

    Raises ``InputError`` if there are such rows, and none has one of the metadata ``keys``.
    """

    rewrite: Callable[[PipelineRow], Sequence[Row]]
    where: Filter | None = None
    keys: tuple[str, ...] = ()

    def bind(self, rows: Rows) -> Rows:
        def stream() -> Iterator[PipelineRow]:
            found: set[str] | None = None
            for row in rows():
                if self.where is not None and not self.where(row):
                    yield row
                    continue
                if self.keys:
                    found = (found or set()) | row.current.meta.keys()
                for one in self.rewrite(row):
                    yield row if one is row.current else replace(row, current=one)
            if found is not None and not found.intersection(self.keys):
                raise unknown_key(self.keys[0], found)

        return stream


def unknown_key(key: str, keys: Collection[str]) -> InputError:
    """Return an error that no row has the metadata key ``key``; they have ``keys``."""
    return InputError(
        f"No row has the key {one_line(key, 30)}.", hint=suggest(key, sorted(keys)) if keys else "The rows have no metadata."
    )


@dataclass(frozen=True)
class Selection:
    """Leaves out the rows that ``choose`` does not select among all rows that match ``where``.

    ``choose`` gets the rows with their positions in the stream and returns the positions to leave out.
    """

    choose: Callable[[Iterator[tuple[int, PipelineRow]]], frozenset[int]]
    where: Filter | None = None

    def bind(self, rows: Rows) -> Rows:
        dropped: list[frozenset[int]] = []  # of the first read; later reads see the same rows

        def stream() -> Iterator[PipelineRow]:
            if not dropped:
                numbered = enumerate(rows())
                dropped.append(self.choose((number, row) for number, row in numbered if self.where is None or self.where(row)))
            return (row for number, row in enumerate(rows()) if number not in dropped[0])

        return stream


@dataclass(frozen=True)
class Addition:
    """Appends rows that are not in the source."""

    rows: Callable[[], Iterable[Row]]

    def bind(self, rows: Rows) -> Rows:
        def stream() -> Iterator[PipelineRow]:
            yield from rows()
            yield from (PipelineRow(ADDED, row) for row in self.rows())

        return stream


Step = Rewrite | Selection | Addition


@dataclass(frozen=True)
class Verb:
    """A verb of the language. ``parse`` reads its arguments. ``usage`` and ``about`` are for help and error messages."""

    usage: str
    about: str
    parse: Callable[[ArgumentScanner], Step]

    @property
    def name(self) -> str:
        return self.usage.partition(" ")[0]


_WORD = re.compile(r'\s*("(?:\\.|[^"\\])*"|[^\s|]+)')
_END = re.compile(r"[^\S\n]*(?:[|\n]|\Z)")
_SLASH = re.compile(r"[^\S\n]*/")
_DELIMITED = re.compile(rf"{_SLASH.pattern}((?:\\.|[^/\\\n])+)/((?:\\.|[^/\\\n])*)/([i]*)(?=\s|\||$)")
_FILTER = re.compile(r'(?:\s*(?:[-(]*(?:[\w.-]+:)?(?:/(?:\\.|[^/\\\n])+/i?|"[^"\n]*")|[^\s|]+))*')


class ArgumentScanner:
    """Reads the arguments of the verbs in a pipeline. Relative paths are relative to ``folder``; ``where`` is the condition for the next step.

    ``fields`` collects those of filters.
    """

    def __init__(self, text: str, folder: Path) -> None:
        self.text, self.folder = text, folder
        self.position = 0
        self.verb: Verb  # whose arguments are read
        self.where: Filter | None = None
        self.fields: set[str] = set()
        self.time = SearchTime()  # of all patterns

    @property
    def at_end(self) -> bool:
        """Whether the step has no more arguments: a bar, a line break or the end of the text follows."""
        return _END.match(self.text, self.position) is not None

    def error(self, message: str) -> InputError:
        """Return an error about the step, with its usage as the hint."""
        return InputError(message, hint=f"Usage: {self.verb.usage}")

    def word(self, what: str) -> str:
        """Read a word, or a text in double quotes."""
        if self.at_end:
            raise self.error(f"{self.verb.name} needs {what}.")
        match = _WORD.match(self.text, self.position)
        if match is None or (match[1].startswith('"') and (len(match[1]) < 2 or not match[1].endswith('"'))):
            raise self.error(f"{self.verb.name}: a quote is not closed.")
        self.position = match.end()
        return re.sub(r"\\(.)", r"\1", match[1][1:-1]) if match[1].startswith('"') else match[1]

    def number(self, what: str, least: float = -math.inf) -> int:
        """Read a whole number that is at least ``least``."""
        word = self.word(what)
        try:
            number = int(word.replace(",", ""))
        except ValueError:
            raise self.error(f"{self.verb.name}: {one_line(word, 30)} is not {what}.") from None
        if number < least:
            raise self.error(f"{self.verb.name}: {what} must be at least {least}.")
        return number

    def action(self, *choices: str) -> str:
        """Read one of the words ``choices``."""
        word = self.word("an action")
        if word not in choices:
            raise self.error(f"{self.verb.name}: unknown action {one_line(word, 30)}.")
        return word

    def keyword(self, word: str) -> bool:
        match = re.compile(rf"\s*{word}(?=\s|\||$)").match(self.text, self.position)
        if self.at_end or match is None:
            return False
        self.position = match.end()
        return True

    def delimited(self) -> tuple[str, str, str] | None:
        """Read ``/pattern/replacement/flags`` if it comes next."""
        if not _SLASH.match(self.text, self.position):
            return None
        match = _DELIMITED.match(self.text, self.position)
        if match is None:
            raise self.error(f"{self.verb.name}: write /pattern/replacement/, and \\/ for a slash.")
        self.position = match.end()
        pattern, new, flags = match.groups()
        return pattern.replace("\\/", "/"), new.replace("\\/", "/"), flags

    def filter(self) -> str:
        """Read a filter: the rest of the step. Bars inside quotes and slashes belong to it."""
        end = self.text.find("\n", self.position)
        match = _FILTER.match(self.text, self.position, len(self.text) if end < 0 else end)
        assert match
        self.position = match.end()
        self.fields |= fields(match[0])
        return match[0].strip()
