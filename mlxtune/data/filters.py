"""Which rows are meant: a small language for the review.

    status:pending       pending accepted rejected skipped tied bad; or edited, decided, undecided
    tag:billing          a tag of the row
    finding:conflict     what a check found about the row
    id:3f2a9c            the beginning of the row's id
    len>400  len<=20     characters of all that is said; tokens>400 where they are known
    /regex/  /regex/i    found in what is said; i: whatever the case
    refund  "two words"  found in what is said, whatever the case
    -tag:billing         not

Words with a space between them must all hold.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mlxtune.core.errors import InputError
from mlxtune.core.text import nearest, one_line
from mlxtune.data.decisions import STATUSES, Decision, Keyed, State, now, tags
from mlxtune.data.rows import Row

_TERM = re.compile(
    r'\s*(-?)(?:/((?:\\.|[^/\\])+)/(i?)|"([^"]*)"|(?:(len|tokens)(<=|>=|<|>|=)(\d+))|(\w+):("[^"]*"|\S+)|([^\s":/][^\s"]*))(?=\s|$)'
)
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
_FIELDS = ("status", "tag", "finding", "id")
_MORE = ("edited", "decided", "undecided")


class Seen(Protocol):
    """A row as a filter sees it: what the source says, what it says ``now``, what was decided, what checks found; ``tokens`` -1: not known."""

    @property
    def row(self) -> Row: ...
    @property
    def now(self) -> Row: ...
    @property
    def decision(self) -> Decision: ...
    @property
    def findings(self) -> Collection[str]: ...
    @property
    def tokens(self) -> int: ...


@dataclass(frozen=True)
class Subject:
    """What is :class:`Seen` of a row, all of it read, and the row's key."""

    key: str
    row: Row
    now: Row
    decision: Decision
    findings: frozenset[str] = frozenset()
    tokens: int = -1

    @classmethod
    def of(cls, keyed: Keyed, state: State, findings: frozenset[str] = frozenset(), tokens: int = -1) -> Subject:
        """A row as the review leaves it. Raises ``DataError`` as :func:`decisions.now` does."""
        key, row = keyed
        decision = state.of(key)
        return cls(key, row, now(row, decision), decision, findings, tokens)


Filter = Callable[[Seen], bool]


def parse(text: str) -> Filter:
    """The filter that ``text`` says; an empty one lets everything through. Raises ``InputError`` for what cannot be understood."""
    terms: list[Filter] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TERM.match(text, at)
        if not found:
            raise InputError(
                f"The filter cannot be read from here on: {one_line(text[at:], 40)}", mend="Close the quote or the slash."
            )
        term = _term(found)
        terms.append(_negated(term) if found[1] else term)
        at = found.end()
    return lambda subject: all(term(subject) for term in terms)


def said(row: Row) -> str:
    """All that a row says, a line between two turns."""
    return "\n".join(_texts(row.content))


def gist(row: Row) -> str:
    """What tells a row from others at a glance: what is asked last."""
    asked = row.question
    return asked if isinstance(asked, str) else str(asked[-1]["content"]) if asked else said(row)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in ("role", "tools"):
                yield from _texts(item)


def _negated(term: Filter) -> Filter:
    return lambda subject: not term(subject)


def _term(found: re.Match[str]) -> Filter:
    _, pattern, fold, quoted, measure, sign, number, name, value, word = found.groups()
    if pattern is not None:
        try:
            regex = re.compile(pattern.replace("\\/", "/"), re.IGNORECASE if fold else 0)
        except re.error as error:
            raise InputError(f"/{one_line(pattern, 40)}/ is no regular expression: {error}.") from error
        return lambda subject: bool(regex.search(said(subject.now)))
    if measure is not None:
        compare, bound = _COMPARE[sign], int(number)
        if measure == "len":
            return lambda subject: compare(len(said(subject.now)), bound)
        return lambda subject: subject.tokens >= 0 and compare(subject.tokens, bound)
    if name is not None:
        return _field(name, value.strip('"'))
    sought = (word if quoted is None else quoted).casefold()
    return lambda subject: sought in said(subject.now).casefold()


def _field(name: str, value: str) -> Filter:
    match name:
        case "status":
            if value not in (*STATUSES, *_MORE):
                hint = nearest(value, (*STATUSES, *_MORE))
                raise InputError(
                    f"There is no status {one_line(value, 30)}.",
                    mend=f"Did you mean {hint}?" if hint else f"There are {', '.join((*STATUSES, *_MORE))}.",
                )
            return lambda subject: _holds(value, subject.decision)
        case "tag":
            return lambda subject: value in tags(subject.now)
        case "finding":
            from mlxtune.data.checks import CHECKS  # they load numpy, which other filters need not wait for

            if value not in CHECKS:
                hint = nearest(value, CHECKS)
                raise InputError(
                    f"No check finds {one_line(value, 30)}.",
                    mend=f"Did you mean {hint}?" if hint else "data check names what it finds.",
                )
            return lambda subject: value in subject.findings
        case "id":
            return lambda subject: any(row.hash.startswith(value.lower()) for row in (subject.row, subject.now))
    hint = nearest(name, _FIELDS)
    raise InputError(
        f"A filter has no {one_line(name, 30)}:.",
        mend=f"Did you mean {hint}:?" if hint else 'In quotes it is text that is sought: "a:b"',
    )


def _holds(status: str, decision: Decision) -> bool:
    undecided = decision.status in ("pending", "skipped")
    match status:
        case "edited":
            return decision.record is not None
        case "decided":
            return not undecided
        case "undecided":
            return undecided
    return decision.status == status
