"""Verbs that change texts: ``replace``, ``trim`` and ``normalize``."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

import regex

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line, suggest
from mlxtune.data.checks.characters import invisible
from mlxtune.data.checks.check_input import ROLES, rewrite_texts, text_parts
from mlxtune.data.rows import Row
from mlxtune.data.transforms.transform import ArgumentScanner, Rewrite, Verb

_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_BREAKS = re.compile("\r\n?|[\u2028\u2029]")
_GROUP = re.compile(r"\\(?:(\d+)|g<(\w+)>)")

TextFunction = Callable[[str], str]


def rewrite_parts(row: Row, function: TextFunction, target: str = "") -> Row:
    """Return ``row`` with ``function`` applied to all texts, or to those of one role, part or metadata key (``meta.KEY``).

    ``prompt`` is every turn before the answer, and ``answer`` every assistant turn and both answers of a pair.
    """
    if target.startswith("meta."):
        key = target.removeprefix("meta.")
        value = row.meta.get(key)
        if not isinstance(value, str) or (new := function(value)) == value:
            return row
        return replace(row, meta={**row.meta, key: new})
    parts = {part.name: part for part in text_parts(row)}
    changed = False

    def rewrite(name: str, text: str) -> str:
        nonlocal changed
        part = parts.get(name.partition(", ")[0])  # reasoning and the arguments of calls belong to their turn
        matches = target in ("", name) or (part is not None and part.is_of(target))
        new = function(text) if matches and text else text
        changed = changed or new != text
        return new

    rewritten = rewrite_texts(row, rewrite)
    return rewritten if changed else row


def _rewrite_step(scanner: ArgumentScanner, function: TextFunction) -> Rewrite:
    target = ""
    if scanner.keyword("in"):
        target = scanner.word("a role or field")
        if target not in ROLES and not target.startswith(("meta.", "turn ")):
            raise scanner.error(f"{scanner.name}: unknown role {one_line(target, 30)}. {suggest(target, (*ROLES, 'meta.KEY'))}")
    keys = (target.removeprefix("meta."),) if target.startswith("meta.") else ()
    return Rewrite(lambda row: [rewrite_parts(row.current, function, target)], scanner.where, keys)


def _parse_replace(scanner: ArgumentScanner) -> Rewrite:
    delimited = scanner.delimited()
    if delimited is None:
        old, new = scanner.word('a "text" or /pattern/'), scanner.word("its replacement")
        if not old:
            raise scanner.error("replace: the text to find is empty.")
        return _rewrite_step(scanner, lambda text: text.replace(old, new))
    pattern, new, flags = delimited
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE if "i" in flags else 0)
    except regex.error as error:
        raise scanner.error(f"/{one_line(pattern, 40)}/ is not a valid regular expression: {error}.") from None
    for number, name in _GROUP.findall(new):
        if (number and int(number) > compiled.groups) or (name and not name.isdigit() and name not in compiled.groupindex):
            raise scanner.error(f"replace: /{one_line(pattern, 40)}/ has no group {number or name}.")

    def substitute(text: str) -> str:
        try:
            return scanner.time.limit(lambda seconds: str(compiled.sub(new, text, timeout=seconds)), pattern)
        except (regex.error, IndexError) as error:
            raise DataError(
                f"replace: {error}.", hint="Refer to groups as \\1 or \\g<name>, and write \\\\ for a backslash."
            ) from None

    return _rewrite_step(scanner, substitute)


def normalize(text: str) -> str:
    """Return ``text`` in NFC, with plain spaces, ``\\n`` line breaks and no invisible characters."""
    before = None
    while text != before:  # a step can make another one necessary
        before = text
        text = _SPACES.sub(" ", _BREAKS.sub("\n", text))
        for hit in reversed(list(invisible(text))):
            text = text[: hit.start] + (hit.replacement or "") + text[hit.end :]
        text = unicodedata.normalize("NFC", text)
    return text


REPLACE = Verb(
    "replace /pattern/new/[i] [in ROLE]",
    r'replace text: a regular expression with groups (\1), or "old" "new"; in a role, answer, prompt, or meta.KEY',
    _parse_replace,
)
TRIM = Verb("trim [in ROLE]", "remove whitespace at both ends of texts", lambda scanner: _rewrite_step(scanner, str.strip))
NORMALIZE = Verb(
    "normalize [in ROLE]",
    "plain spaces and line breaks, composed letters (NFC), no invisible characters",
    lambda scanner: _rewrite_step(scanner, normalize),
)
