"""A small query language to filter the rows of a review.

status:pending       pending accepted rejected skipped tied bad; or edited, decided, undecided, disputed (annotators differ); proposed = generated, undecided
tag:billing          a tag of the row
finding:conflict     a check with a finding about the row
split:test           train, valid, or test (held out), if the splits are known
id:3f2a9c            the beginning of the row's ID
len>400  len != 20   characters in all text; also tokens>400 if they are known, and meta.score>=3
meta.lang:en         a metadata key
answer:/regex/       a match in the answers; also prompt, user, assistant, system, tool, chosen, rejected
/regex/  /regex/i    a match in the text; i ignores case
refund  "two words"  words in the text, ignoring case
-tag:billing         not
a or (b c)           either; terms separated by spaces must all match
"""

import json
import operator
import re
import time
from collections.abc import Callable, Collection, Iterator
from typing import Protocol, TypeVar

import regex

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, suggest
from mlxtune.data.checks.check_input import ROLES, target_text, text_parts
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.languages import NAMES, language
from mlxtune.data.review import STATUSES, Decision
from mlxtune.data.rows import Row, row_tags, row_text
from mlxtune.data.split import SPLIT_NAMES, SplitName

_PATTERN = r"/(?:\\.|[^/\\])+/i?"
_TERM = re.compile(
    rf"""\s*(?:([()])|(-)(?=\S)|(?:
        (?P<measure>len|tokens|meta\.[\w.-]+)\s*(?P<sign><=|>=|!=|<|>|=)\s*(?P<number>-?\d+(?:\.\d+)?)
        |(?:(?P<field>[\w.-]+):)?(?P<text>{_PATTERN}|"[^"]*")
        |(?P<name>[\w.-]+):(?P<value>[^\s"()]+)
        |(?P<word>(?!-[\s()]|-$)[^\s":/()][^\s"()]*))(?=[\s()]|$))""",
    re.VERBOSE,
)
_OPERATORS = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip
FIELDS = ("status", "tag", "finding", "split", "id", "language")
CHECKED = frozenset(("finding", "split", "tokens"))  # the fields that are known only after the checks
_STATUS_VALUES = (*STATUSES, "edited", "decided", "undecided", "disputed", "proposed")
WORDS = (
    *(f"{field}:{value}" for field, values in (("status", _STATUS_VALUES), ("split", SPLIT_NAMES)) for value in values),
    *(f"{name}:" for name in ("tag", "finding", "id", "language", *ROLES)), "meta.",
)  # fmt: skip


T = TypeVar("T")


class SearchTime:
    """The time that patterns may still take, for all texts together: a pattern may need exponential time."""

    def __init__(self) -> None:
        self.seconds = self._left = 10.0

    def limit(self, search: Callable[[float], T], pattern: str) -> T:
        """Return the result of ``search``, which gets the seconds that it may take. Raises ``InputError`` if it takes longer."""
        start = time.perf_counter()
        try:
            return search(max(self._left, 1e-3))
        except TimeoutError:
            hint = "Simplify it: a repeated group that contains a repetition, such as (x+)+, takes exponential time."
            raise InputError(f"/{one_line(pattern, 40)}/ took longer than {self.seconds:.0f} s.", hint=hint) from None
        finally:
            self._left -= time.perf_counter() - start


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
    terms = list(_terms(text.rstrip()))
    matches = _either(terms) if terms else lambda row: True
    if terms:
        raise _invalid(terms[0][0])
    return matches


_Term = tuple[str, Filter | None]  # its text, and what it matches unless it is ``(``, ``)``, ``-`` or ``or``


def _terms(text: str) -> Iterator[_Term]:
    start = 0
    while start < len(text):
        match = _TERM.match(text, start)
        if not match:
            rest = text[start:].strip()
            quoted = re.match(r"-?(?:[\w.-]+:)?[\"/]", rest)
            raise _invalid(rest, "Close the quote or the slash.") if quoted else _invalid(rest)
        sign = match[1] or match[2] or (match["word"] if match["word"] in ("or", "OR") else "")
        yield (sign.lower(), None) if sign else (match[0].strip(), _parse_term(match))
        start = match.end()


def _invalid(rest: str, hint: str = 'Complete it, or put text in quotes: "a:b"') -> InputError:
    return InputError(f"The filter is invalid, starting at: {one_line(rest, 40)}", hint=hint)


def _either(terms: list[_Term]) -> Filter:
    """Take an expression off the front of ``terms``, up to a closing parenthesis."""
    choices = [_all(terms)]
    while terms and terms[0][0] == "or":
        terms.pop(0)
        choices.append(_all(terms))
    return lambda row: any(matches(row) for matches in choices)


def _all(terms: list[_Term]) -> Filter:
    found: list[Filter] = []
    while terms and not (terms[0][1] is None and terms[0][0] in ("or", ")")):
        found.append(_one(terms))
    if not found:
        raise _invalid(terms[0][0] if terms else "or")
    return lambda row: all(matches(row) for matches in found)


def _one(terms: list[_Term]) -> Filter:
    sign, matches = terms.pop(0)
    if matches is not None:
        return matches
    if not terms:
        raise _invalid(sign)
    if sign == "-":
        denied = _one(terms)
        return lambda row: not denied(row)
    inner = _either(terms)
    if not terms or terms.pop(0)[0] != ")":
        raise _invalid(sign)
    return inner


def fields(text: str) -> set[str]:
    """Return the fields and measures in a valid filter, such as ``finding`` and ``tokens``."""
    return {name for match in _TERM.finditer(text) if (name := match["measure"] or match["field"] or match["name"])}


def _parse_term(match: re.Match[str]) -> Filter:
    if measure := match["measure"]:
        compare, bound = _OPERATORS[match["sign"]], float(match["number"])
        if measure == "len":
            return lambda row: compare(len(row_text(row.current)), bound)
        if measure == "tokens":
            return lambda row: row.tokens >= 0 and compare(row.tokens, bound)
        key = measure.removeprefix("meta.")
        return lambda row: isinstance(value := row.current.meta.get(key), int | float) and compare(value, bound)
    word = match["word"] or ""
    if re.match(r"(len|tokens|meta\.[\w.-]+)[<>=!]", word):
        raise InputError(f"{one_line(word, 30)} has no number.", hint="Write, for example, len>400 or tokens<=100.")
    if re.fullmatch(r"[\w.-]+:|AND|NOT|[<>=!&|~]+", word):
        raise _invalid(word, f'Write a space for and, - for not, a value after a colon, or "{word}" to search for the text.')
    text = match["text"] or match["value"] or word
    field = match["field"] or match["name"]
    if field and field not in ROLES:
        return _field_filter(field, text.strip('"'))
    has_text = _text_test(text)
    if not field:
        return lambda row: has_text(row_text(row.current))
    return lambda row: any(has_text(part.text) for part in text_parts(row.current) if part.is_of(field))


def _text_test(text: str) -> Callable[[str], bool]:
    """Return whether a text matches ``text``: a pattern in slashes, or words whose case is ignored."""
    if re.fullmatch(_PATTERN, text):
        pattern, _, flag = text[1:].rpartition("/")
        try:
            compiled = regex.compile(pattern.replace("\\/", "/"), regex.IGNORECASE if flag else 0)
        except regex.error as error:
            raise InputError(f"/{one_line(pattern, 40)}/ is not a valid regular expression: {error}.") from error
        limited = SearchTime()
        return lambda content: limited.limit(lambda seconds: bool(compiled.search(content, timeout=seconds)), pattern)
    needle = text.strip('"').casefold()
    return lambda content: needle in content.casefold()


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
        case "language":
            if value not in NAMES:
                raise InputError(f"Unknown language {one_line(value, 30)}.", hint=suggest(value, NAMES))
            return lambda row: language(target_text(row.current)) == value
        case "id":
            return lambda row: any(version.hash.startswith(value.lower()) for version in (row.row, row.current))
    if field.startswith("meta."):
        key = field.removeprefix("meta.")
        return lambda row: value in _values(row.current.meta.get(key))
    hint = f'{suggest(field, (*FIELDS, *ROLES))} Or meta.{one_line(field, 30)}: for metadata, or quote it to search for text: "a:b"'
    raise InputError(f"Unknown filter {one_line(field, 30)}:.", hint=hint)


def _values(value: object) -> list[str]:
    """Return a metadata value, or the items of a list, as a filter writes them."""
    items = value if isinstance(value, list) else [value]
    return [item if isinstance(item, str) else json.dumps(item) for item in items]


def _has_status(decision: Decision, status: str) -> bool:
    facts = {
        "edited": decision.record is not None, "decided": not decision.is_undecided, "undecided": decision.is_undecided,
        "disputed": decision.is_disputed,
    }  # fmt: skip
    return facts.get(status, decision.status == status)
