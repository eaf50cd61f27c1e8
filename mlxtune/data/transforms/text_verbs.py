"""Verbs that change texts and turns: ``replace``, ``trim``, ``normalize``, ``system`` and ``turn``."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

import regex

from mlxtune.core.errors import DataError
from mlxtune.core.files import read_text, user_path
from mlxtune.core.text import one_line, suggest
from mlxtune.data.checks.characters import invisible
from mlxtune.data.checks.check_input import ROLES, rewrite_texts, text_parts
from mlxtune.data.rows import Conversation, Message, Row, TextRow, row_turns, with_turns
from mlxtune.data.transforms.transform import ArgumentScanner, PipelineRow, Rewrite, Verb

_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_BREAKS = re.compile("\r\n?|[\u2028\u2029]")
_GROUP = re.compile(r"\\(?:(\d+)|g<(\w+)>)")

TextFunction = Callable[[str], str]
Turns = tuple[Message, ...]


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
            raise scanner.error(
                f"{scanner.verb.name}: unknown role {one_line(target, 30)}. {suggest(target, (*ROLES, 'meta.KEY'))}"
            )
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


def _parse_system(scanner: ArgumentScanner) -> Rewrite:
    action = scanner.action("set", "prepend", "append", "drop")
    text = "" if action == "drop" else _read_text(scanner, scanner.word("a file"))
    return Rewrite(lambda row: [_change_system(row.current, action, text)], scanner.where)


def _read_text(scanner: ArgumentScanner, name: str) -> str:
    path = scanner.folder / user_path(name)
    try:
        text = read_text(path).strip()
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read as text"
        raise scanner.error(f"system: {one_line(name, 60)} {reason}.") from None
    if not text:
        raise scanner.error(f"system: {one_line(name, 60)} is empty.")
    return text


def _change_system(row: Row, action: str, text: str) -> Row:
    turns = row_turns(row)
    if isinstance(row, TextRow):
        return row
    old = turns[0].content if turns and turns[0].is_system else None
    rest = turns if old is None else turns[1:]
    if action == "drop":
        return row if old is None else with_turns(row, rest)
    if action == "prepend" and old:
        text = old if old == text or old.startswith(f"{text}\n\n") else f"{text}\n\n{old}"
    if action == "append" and old:
        text = old if old == text or old.endswith(f"\n\n{text}") else f"{old}\n\n{text}"
    return row if old == text else with_turns(row, (Message("system", text), *rest))


def _parse_turn(scanner: ArgumentScanner) -> Rewrite:
    action = scanner.action(*_TURN_ACTIONS)
    every = action == "split" and scanner.keyword("every")
    number = scanner.number("the number of a turn", 1)
    if every:
        return Rewrite(lambda row: _split_every(row.current, number), scanner.where)
    function = _TURN_ACTIONS[action]

    def rewrite(row: PipelineRow) -> list[Row]:
        return [row.current] if number > len(row_turns(row.current)) else function(row.current, number - 1)

    return Rewrite(rewrite, scanner.where)


def _drop_turn(row: Row, index: int) -> list[Row]:
    turns = row_turns(row)
    return [with_turns(row, (*turns[:index], *turns[index + 1 :]))]


def _cut_turns(row: Row, index: int) -> list[Row]:
    """Drop the turn at ``index`` and all after it. A conversation then ends with its last answer before it."""
    turns = row_turns(row)[:index]
    if isinstance(row, Conversation):
        turns = _until_answer(turns)
        if not turns:
            raise DataError(f"{row.location}: no answer is left before turn {index + 1}.")
    return [with_turns(row, turns)]


def _split_turns(row: Row, index: int) -> list[Row]:
    """Split a conversation before the turn at ``index``. Both parts begin with its system turn."""
    if not isinstance(row, Conversation):
        return [row]
    system = row.messages[:1] if row.messages[0].is_system else ()
    parts = [_until_answer(row.messages[:index]), (*system, *row.messages[index:])]
    whole = [part for part in parts if len(part) > len(system) and part[-1].role == "assistant"]
    return [with_turns(row, part) for part in whole] if len(whole) == len(parts) and index > len(system) else [row]


def _split_every(row: Row, number: int) -> list[Row]:
    """Split a conversation into parts of ``number`` turns, or of more up to the next question. Each begins with its system turn."""
    if not isinstance(row, Conversation):
        return [row]
    system = row.messages[:1] if row.messages[0].is_system else ()
    parts: list[Turns] = [()]
    for turn in row.messages[len(system) :]:
        is_new = len(parts[-1]) >= number and turn.role == "user" and parts[-1][-1].role == "assistant"
        parts[-1:] = [parts[-1], (turn,)] if is_new else [(*parts[-1], turn)]
    return [row] if len(parts) == 1 else [with_turns(row, (*system, *part)) for part in parts]


def _until_answer(turns: Turns) -> Turns:
    while turns and turns[-1].role != "assistant":
        turns = turns[:-1]
    return turns


_TURN_ACTIONS: dict[str, Callable[[Row, int], list[Row]]] = {"drop": _drop_turn, "cut": _cut_turns, "split": _split_turns}


VERBS = (
    Verb(
        "replace /pattern/new/[i] [in ROLE]",
        r'replace text: a regular expression with groups (\1), or "old" "new"; in a role, answer, prompt, or meta.KEY',
        _parse_replace,
    ),
    Verb("trim [in ROLE]", "remove whitespace at both ends of texts", lambda scanner: _rewrite_step(scanner, str.strip)),
    Verb(
        "normalize [in ROLE]",
        "plain spaces and line breaks, composed letters (NFC), no invisible characters",
        lambda scanner: _rewrite_step(scanner, normalize),
    ),
    Verb(
        "system set|prepend|append FILE, or system drop",
        "set, extend or remove the system turn, with the text in a file",
        _parse_system,
    ),
    Verb(
        "turn drop|cut|split [every] N",
        "drop turn N, cut it and all after it, or split the conversation before it, or after every N turns",
        _parse_turn,
    ),
)
