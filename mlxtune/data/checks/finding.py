"""What a check is and what it finds. A check is a small function that a decorator enters into a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from mlxtune.core.text import one_line

if TYPE_CHECKING:
    from mlxtune.data.checks.look import Look, Part
    from mlxtune.data.checks.survey import Survey

Severity = Literal["block", "warn", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
Mend = Literal["drop", "put", "hand"]  # leave the row out; put something in a span's place; only a person can

EXCERPT = 60  # characters of evidence
_SPANS = 20  # of a finding, at most


@dataclass(frozen=True, slots=True)
class Fix:
    """What would mend a finding. A ``safe`` one takes nothing away that anyone would train on."""

    how: Mend
    does: str
    safe: bool = False


DROP = Fix("drop", "leave out")
UNUSABLE = Fix("drop", "leave out", safe=True)
HAND = Fix("hand", "edit")


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of finding: ``title`` counts them in a table, ``mark`` is its sign there."""

    id: str
    severity: Severity
    title: str
    fix: Fix
    mark: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A place in one text, from ``start`` to ``end``. ``put`` is what the fix writes there; ``shown`` replaces what must not be shown."""

    start: int
    end: int
    why: str
    put: str | None = None
    shown: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Evidence: where in a row, and what stands there. Offsets count characters of the part's text."""

    part: str
    start: int
    end: int
    text: str
    put: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's word on one row or on the whole. Of ``rows``, numbers in the order of the files, the first is the one to mend."""

    check: str
    severity: Severity
    rows: tuple[int, ...]
    why: str
    spans: tuple[Span, ...] = ()


TextCheck = Callable[[str], Iterable[Hit]]
RowCheck = Callable[["Look"], Iterable[tuple[str, tuple[Span, ...]]]]
WholeCheck = Callable[["Survey"], Iterable[Finding]]

CHECKS: dict[str, Check] = {}
TEXT_CHECKS: list[tuple[Check, TextCheck, bool]] = []
ROW_CHECKS: list[tuple[Check, RowCheck]] = []
WHOLE_CHECKS: list[WholeCheck] = []


def enter(id: str, severity: Severity, title: str, fix: Fix = HAND, mark: str = "!") -> Check:
    """A check in the table, by its id."""
    CHECKS[id] = Check(id, severity, title, fix, mark)
    return CHECKS[id]


def text_check(
    id: str, severity: Severity, title: str, fix: Fix = HAND, mark: str = "!", *, answers: bool = False
) -> Callable[[TextCheck], TextCheck]:
    """Enter a function from a text to hits: it sees every text of a row or, with ``answers``, only those that train."""
    check = enter(id, severity, title, fix, mark)

    def register(function: TextCheck) -> TextCheck:
        TEXT_CHECKS.append((check, function, answers))
        return function

    return register


def row_check(id: str, severity: Severity, title: str, fix: Fix = HAND, mark: str = "!") -> Callable[[RowCheck], RowCheck]:
    """Enter a function from a row to what it finds: a sentence and the evidence, at most once."""
    check = enter(id, severity, title, fix, mark)

    def register(function: RowCheck) -> RowCheck:
        ROW_CHECKS.append((check, function))
        return function

    return register


def whole_check(function: WholeCheck) -> WholeCheck:
    """Enter a function that is asked once, when all rows were seen; its checks stand in the table by :func:`enter`."""
    WHOLE_CHECKS.append(function)
    return function


def span(part: Part, hit: Hit) -> Span:
    """The evidence of ``hit``, with some of what stands around it."""
    text = hit.shown if hit.shown is not None else part.text[hit.start : hit.end]
    room = max(0, EXCERPT - len(text)) // 2
    before, after = part.text[max(0, hit.start - room) : hit.start], part.text[hit.end : hit.end + room]
    return Span(part.name, hit.start, hit.end, one_line(f"{before}{text}{after}", EXCERPT + 20), hit.put if part.exact else None)


def found(check: Check, at: int, hits: Iterable[tuple[Part, Hit]]) -> Iterator[Finding]:
    """One finding for all ``hits`` in a row, if there is one."""
    held = list(hits)
    if held:
        spans = tuple(span(part, hit) for part, hit in held[:_SPANS])
        yield Finding(check.id, check.severity, (at,), held[0][1].why, spans)
