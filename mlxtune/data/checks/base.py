"""Checks and the findings they report.

A finding has no sentence of its own: its check declares the wording once, with the finding's values in braces (see
``present/check.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from mlxtune.core.text import one_line
from mlxtune.data.checks.check_input import CheckInput, TextPart
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.illustration import is_illustration

Severity = Literal["block", "warn", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
FixKind = Literal["drop", "put", "hand"]  # leave the row out; replace a span; edit by hand
Values = Mapping[str, Any]  # the numbers and texts that a finding's wording mentions, as JSON values
NO_VALUES: Values = MappingProxyType({})

_EXCERPT = 60  # characters of evidence
_MAX_SPANS = 20  # per finding that has no replacement; a fix needs all of them


@dataclass(frozen=True, slots=True)
class Fix:
    """How to fix a finding. A ``safe`` fix removes only content that is not worth training on, so ``--fix`` applies it without
    asking. ``everywhere`` applies it to every occurrence of a value in a row or to none: an address that is masked in the prompt
    must not remain in a call.
    """

    kind: FixKind
    label: str
    safe: bool = False
    everywhere: bool = False


DROP = Fix("drop", "reject")
DROP_UNUSABLE = Fix("drop", "reject", safe=True)
BY_HAND = Fix("hand", "edit")


@dataclass(frozen=True, slots=True)
class Check:
    id: str
    severity: Severity
    title: str  # a plural noun phrase for lists
    wording: str | Mapping[str, str]  # why a finding matters, or one wording for each ``Finding.reason``
    fix: Fix = BY_HAND
    glyph: str = "!"
    short: str = ""  # replaces a long ID in a table cell
    illustrates: Literal["", "fence", "code", "any"] = ""  # where a hit is a note: see is_illustration

    @property
    def label(self) -> str:
        """The name in a table cell, at most 12 characters long."""
        return self.short or self.id

    def finding(
        self,
        *rows: int,
        spans: tuple[Span, ...] = (),
        reason: str = "",
        values: Values = NO_VALUES,
        severity: Severity | None = None,
    ) -> Finding:
        return Finding(self.id, severity or self.severity, rows, spans, reason, values)


@dataclass(frozen=True, slots=True)
class Hit:
    start: int
    end: int
    replacement: str | None = None  # written by the fix
    shown: str | None = None  # replaces a secret where the evidence is displayed
    reason: str = ""
    values: Values = field(default_factory=lambda: NO_VALUES)
    certain: bool = False  # never an illustration


@dataclass(frozen=True, slots=True)
class Span:
    """Evidence for a finding: a part of a row, character offsets in its text, and an excerpt."""

    part: str
    start: int
    end: int
    text: str
    replacement: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a row check found: spans, and the reason and values of the finding."""

    spans: tuple[Span, ...] = ()
    reason: str = ""
    values: Values = field(default_factory=lambda: NO_VALUES)


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    severity: Severity
    rows: tuple[int, ...]  # record numbers: first the row to fix, then the rows that explain it
    spans: tuple[Span, ...] = ()
    reason: str = ""  # a key of ``Check.wording`` if the check has several
    values: Values = field(default_factory=lambda: NO_VALUES, hash=False)


TextCheck = Callable[[str], Iterable[Hit]]
RowCheck = Callable[[CheckInput], Evidence | None]
CorpusCheck = Callable[[Corpus], Iterable[Finding]]


class CheckFamily:
    """The checks that one module declares."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.text_checks: list[tuple[Check, TextCheck, bool]] = []
        self.row_checks: list[tuple[Check, RowCheck]] = []
        self.corpus_checks: list[CorpusCheck] = []

    def register(self, check: Check) -> Check:
        self.checks.append(check)
        return check

    def text_check(self, check: Check, *, answers_only: bool = False) -> Callable[[TextCheck], TextCheck]:
        """Declare a check for each text in a row or, with ``answers_only``, for each text that is trained on."""
        self.register(check)

        def add(function: TextCheck) -> TextCheck:
            self.text_checks.append((check, function, answers_only))
            return function

        return add

    def row_check(self, check: Check) -> Callable[[RowCheck], RowCheck]:
        """Declare a check for a whole row. The function returns its evidence, if any."""
        self.register(check)

        def add(function: RowCheck) -> RowCheck:
            self.row_checks.append((check, function))
            return function

        return add

    def corpus_check(self, function: CorpusCheck) -> CorpusCheck:
        """Add a function that runs once, after all rows are read, and yields findings for registered checks."""
        self.corpus_checks.append(function)
        return function


def contains_any(text: str, words: Iterable[str]) -> bool:
    """Return whether ``text`` contains any of ``words``: a cheap test before searching for a slow pattern."""
    return any(map(text.__contains__, words))


def text_finding(check: Check, row: CheckInput, hits: Sequence[tuple[TextPart, Hit]]) -> Finding:
    """Return one finding that covers all ``hits`` in a row. Illustrations are left out of it, or they are a note."""
    leaked = [(part, hit) for part, hit in hits if hit.certain or not is_illustration(row, part, hit.start, check.illustrates)]
    matches = leaked or hits
    severity: Severity = check.severity if leaked else "note"
    spans = tuple(_span(part, hit) for part, hit in (matches if check.fix.kind == "put" else matches[:_MAX_SPANS]))
    return Finding(check.id, severity, (row.index,), spans, matches[0][1].reason, matches[0][1].values)


def whole_span(part: str, text: str) -> Span:
    """Return a span of the whole ``text`` of a part."""
    return Span(part, 0, len(text), text[:_EXCERPT])


def _span(part: TextPart, hit: Hit) -> Span:
    text = hit.shown if hit.shown is not None else part.text[hit.start : hit.end]
    room = max(0, _EXCERPT - len(text)) // 2
    before, after = part.text[max(0, hit.start - room) : hit.start], part.text[hit.end : hit.end + room]
    excerpt = one_line(f"{before}{text}{after}", _EXCERPT + 20)
    return Span(part.name, hit.start, hit.end, excerpt, hit.replacement if part.exact else None)
