"""A small query language to filter the rows of a review.

    status:pending       pending accepted rejected skipped tied bad; or edited, decided, undecided, disputed (annotators differ); proposed = generated, undecided
    tag:billing          a tag of the row
    finding:conflict     a check with a finding about the row
    split:test           train, valid, or test (held out), if the splits are known
    id:3f2a9c            the beginning of the row's ID
    len>400  len<=20     characters in all text; also tokens>400 if they are known
    /regex/  /regex/i    a match in the text; i ignores case
    refund  "two words"  words in the text, ignoring case
    -tag:billing         not

Terms separated by spaces must all match.
"""

import operator
import re
from collections.abc import Callable, Collection
from typing import Protocol

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, suggest
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.review import STATUSES, Decision
from mlxtune.data.rows import Row, row_tags, row_text
from mlxtune.data.split import SPLIT_NAMES, SplitName

_TERM = re.compile(
    r'\s*(-?)(?:/((?:\\.|[^/\\])+)/(i?)|"([^"]*)"|(?:(len|tokens)(<=|>=|<|>|=)(\d+))|(\w+):("[^"]*"|\S+)|([^\s":/][^\s"]*))(?=\s|$)'
)
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}
_FIELDS = ("status", "tag", "finding", "split", "id")
CHECKED = frozenset(("finding", "split", "tokens"))  # the fields that are known only after the checks
_STATUS_VALUES = (*STATUSES, "edited", "decided", "undecided", "disputed", "proposed")


class FilterRow(Protocol):
    """A row as a filter sees it: in the source, after its review (``current``), and the IDs of its findings.

    Unknown tokens are -1, and an unknown split is ``None``.
    """

    @property
    def row(self) -> Row: ...
    @property
    def current(self) -> Row: ...
    @property
    def decision(self) -> Decision: ...
    @property
    def findings(self) -> Collection[str]: ...
    @property
    def split(self) -> SplitName | None: ...
    @property
    def tokens(self) -> int: ...


Filter = Callable[[FilterRow], bool]


def parse(text: str) -> Filter:
    """Parse a filter; an empty one matches every row. Raises ``InputError``."""
    terms: list[Filter] = []
    start = 0
    text = text.rstrip()
    while start < len(text):
        match = _TERM.match(text, start)
        if not match:
            rest = one_line(text[start:], 40)
            hint = "Close the quote or the slash." if rest.lstrip("-")[:1] in ('"', "/") else 'Put text in quotes: "a:b"'
            raise InputError(f"The filter is invalid, starting at: {rest}", hint=hint)
        term = _parse_term(match)
        terms.append(_negate(term) if match[1] else term)
        start = match.end()
    return lambda row: all(term(row) for term in terms)


def fields(text: str) -> set[str]:
    """Return the fields and measures in a valid filter, such as ``finding`` and ``tokens``."""
    return {match[5] or match[8] for match in _TERM.finditer(text) if match[5] or match[8]}


def _negate(term: Filter) -> Filter:
    return lambda row: not term(row)


def _parse_term(match: re.Match[str]) -> Filter:
    _, pattern, ignore_case, quoted, measure, sign, number, field, value, word = match.groups()
    if pattern is not None:
        try:
            regex = re.compile(pattern.replace("\\/", "/"), re.IGNORECASE if ignore_case else 0)
        except re.error as error:
            raise InputError(f"/{one_line(pattern, 40)}/ is not a valid regular expression: {error}.") from error
        return lambda row: bool(regex.search(row_text(row.current)))
    if measure is not None:
        compare, bound = _OPERATORS[sign], int(number)
        if measure == "len":
            return lambda row: compare(len(row_text(row.current)), bound)
        return lambda row: row.tokens >= 0 and compare(row.tokens, bound)
    if field is not None:
        return _field_filter(field, value.strip('"'))
    if word and re.match("(len|tokens)[<>=]", word):
        raise InputError(f"{one_line(word, 30)} has no number.", hint="Write, for example, len>400 or tokens<=100.")
    needle = (word if quoted is None else quoted).casefold()
    return lambda row: needle in row_text(row.current).casefold()


def _field_filter(field: str, value: str) -> Filter:
    match field:
        case "status":
            if value not in _STATUS_VALUES:
                raise InputError(f"Unknown status {one_line(value, 30)}.", hint=suggest(value, _STATUS_VALUES))
            if value == "proposed":
                return lambda row: row.decision.is_undecided and lineage_of(row.row) is not None
            return lambda row: _has_status(row.decision, value)
        case "tag":
            return lambda row: value in row_tags(row.current)
        case "finding":
            from mlxtune.data.checks.registry import check_named  # loads numpy, which other filters do not need

            check = check_named(value)
            return lambda row: check in row.findings
        case "split":
            if value not in SPLIT_NAMES:
                raise InputError(f"Unknown split {one_line(value, 30)}.", hint=suggest(value, SPLIT_NAMES))
            return lambda row: row.split == value
        case "id":
            return lambda row: any(version.hash.startswith(value.lower()) for version in (row.row, row.current))
    hint = f'{suggest(field, _FIELDS)} Or quote it to search for text: "a:b"'
    raise InputError(f"Unknown filter {one_line(field, 30)}:.", hint=hint)


def _has_status(decision: Decision, status: str) -> bool:
    match status:
        case "edited":
            return decision.record is not None
        case "decided":
            return not decision.is_undecided
        case "undecided":
            return decision.is_undecided
        case "disputed":
            return decision.is_disputed
    return decision.status == status
