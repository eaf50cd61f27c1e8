"""The blocks of a document.

A document describes an object (a plan, a report) once. Drawers show it: :mod:`mlxtune.present.terminal`,
:mod:`mlxtune.present.markdown`, :mod:`mlxtune.present.html`, and :mod:`mlxtune.tui.draw`. Text in a block may come from data or a
model; drawers escape it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Mark = Literal["", "success", "warning", "error", "muted", "primary"]
"""What a glyph in front of a text says about it; empty for no glyph. Also the name of its color."""

Style = Literal["", "bold", "muted", "faint", "primary", "success", "warning", "error"]
"""How a text looks. A color is also bold in a table, where it carries meaning."""

Span = str | tuple[str, Style]


@dataclass(frozen=True)
class Heading:
    title: str
    note: str = ""


@dataclass(frozen=True)
class Text:
    spans: tuple[Span, ...]
    mark: Mark = ""

    @property
    def plain(self) -> str:
        return "".join(span if isinstance(span, str) else span[0] for span in self.spans)


@dataclass(frozen=True)
class Quote:
    """A text by a person or a model, of which ``span`` is the part that fails."""

    label: str
    text: str
    span: tuple[int, int] | None = None
    style: Style = ""


@dataclass(frozen=True)
class FailureSample:
    """A row with the answers to it, which only pages show."""

    title: str
    kind: str
    detail: str
    prompt: str
    answers: tuple[Quote, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ActionBlock:
    """An action to take next. The app shows its key, the command line its command."""

    id: str  # the action of a key in the app (plan.probe)
    label: str
    command: str = ""  # what to type instead; empty if only the app has the action


@dataclass(frozen=True)
class Fact:
    label: str
    value: str
    note: str = ""  # an explanation or a source, less important than the value
    mark: Mark = ""
    action: ActionBlock | None = None  # the action that would change the value


@dataclass(frozen=True)
class Facts:
    facts: tuple[Fact, ...]

    def brief(self) -> Facts:
        """Return the facts that have a value, without notes."""
        return Facts(tuple(replace(fact, note="") for fact in self.facts if fact.value))


@dataclass(frozen=True)
class Bar:
    """A part of a whole, drawn from ``start`` to ``end``, which are shares of the axis from 0 to 1."""

    label: str
    value: str
    start: float
    end: float
    note: str = ""
    style: Style = "muted"

    def cells(self, width: int) -> tuple[int, int]:
        """Return the first cell of the bar and its length in cells. A part above zero has at least one cell."""
        first, last = round(self.start * width), round(self.end * width)
        return min(first, max(width - 1, 0)), max(1, last - first) if self.end > self.start else 0


@dataclass(frozen=True)
class Bars:
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class IntervalBar:
    """An interval around a value, on an axis from ``minimum`` to ``maximum``."""

    low: float
    value: float
    high: float
    minimum: float = 0.0
    maximum: float = 1.0
    limit: float | None = None  # A value that is marked with a dashed line
    style: Style = ""  # its color; empty for the color of the row

    @property
    def shares(self) -> tuple[float, float, float]:
        """``low``, ``value`` and ``high`` as shares of the axis."""
        span = (self.maximum - self.minimum) or 1.0
        low, value, high = ((number - self.minimum) / span for number in (self.low, self.value, self.high))
        return low, value, high


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, or a bar. The cells beside a bar show its numbers, for a drawer without charts."""

    text: str = ""
    style: Style = ""
    bar: IntervalBar | None = None


@dataclass(frozen=True)
class Column:
    label: str = ""
    right: bool = False
    priority: int = 0  # 0: always shown. 1: shown if at least 76 cells are available. 2: only in HTML.


def figures(*labels: str, priority: int = 0) -> tuple[Column, ...]:
    return tuple(Column(label, right=True, priority=priority) for label in labels)


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    legend: str = ""  # what the bars show, for a drawer that draws them in full

    def visible(self, priority: int, *, bars: bool = True) -> Table:
        """Return the table with the columns up to ``priority``, excluding bars unless ``bars`` is true."""
        keep = [
            index
            for index, column in enumerate(self.columns)
            if column.priority <= priority and (bars or not any(row[index].bar for row in self.rows))
        ]
        rows = tuple(tuple(row[index] for index in keep) for row in self.rows)
        return Table(self.title, self.note, tuple(self.columns[index] for index in keep), rows)


@dataclass(frozen=True)
class Square:
    """The 2×2 table of rows that pass in the first and in the second arm."""

    title: str
    note: str
    first: str
    second: str
    both: int
    broken: int
    fixed: int
    neither: int

    @property
    def table(self) -> Table:
        columns = (Column(), Column(f"{self.second} passes"), Column(f"{self.second} fails"))
        passes = (Cell(f"{self.first} passes"), Cell(f"{self.both:,} still pass"), Cell(f"{self.broken:,} broken", "error"))
        fails = (Cell(f"{self.first} fails"), Cell(f"{self.fixed:,} fixed", "success"), Cell(f"{self.neither:,} still fail"))
        return Table(self.title, self.note, columns, (passes, fails))


Block = Heading | Text | Facts | Bars | Table | Square | FailureSample | ActionBlock
Document = tuple[Block, ...]


def text(value: str, style: Style = "", mark: Mark = "") -> Text:
    return Text(((value, style),), mark)


def facts(items: Sequence[tuple[str, str]]) -> Facts:
    """Return facts from labels and values, without those that have no value."""
    return Facts(tuple(Fact(label, value) for label, value in items if value))
