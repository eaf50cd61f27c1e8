"""Verbs that change turns: ``system`` and ``turn``."""

from collections.abc import Callable
from dataclasses import replace

from mlxtune.core.errors import DataError
from mlxtune.core.files import read_text, user_path
from mlxtune.core.text import one_line
from mlxtune.data.rows import Conversation, Message, Row, TextRow
from mlxtune.data.transforms.transform import ArgumentScanner, PipelineRow, Rewrite, Verb

Turns = tuple[Message, ...]


def _turns(row: Row) -> Turns:
    return () if isinstance(row, TextRow) else row.messages if isinstance(row, Conversation) else row.prompt


def _with_turns(row: Row, turns: Turns) -> Row:
    match row:
        case TextRow():
            return row
        case Conversation():
            return replace(row, messages=turns)
        case _:
            return replace(row, prompt=turns)


# The system turn


def _parse_system(scanner: ArgumentScanner) -> Rewrite:
    action = scanner.word("set, prepend, append or drop")
    if action not in ("set", "prepend", "append", "drop"):
        raise scanner.error(f"system: unknown action {one_line(action, 30)}.")
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
    turns = _turns(row)
    if isinstance(row, TextRow):
        return row
    old = turns[0].content if turns and turns[0].is_system else None
    rest = turns if old is None else turns[1:]
    if action == "drop":
        return row if old is None else _with_turns(row, rest)
    if action == "prepend" and old:
        text = old if old == text or old.startswith(f"{text}\n\n") else f"{text}\n\n{old}"
    if action == "append" and old:
        text = old if old == text or old.endswith(f"\n\n{text}") else f"{old}\n\n{text}"
    return row if old == text else _with_turns(row, (Message("system", text), *rest))


# Turns by number


def _parse_turn(scanner: ArgumentScanner) -> Rewrite:
    action = scanner.word("drop, cut or split")
    if action not in _TURN_ACTIONS:
        raise scanner.error(f"turn: unknown action {one_line(action, 30)}.")
    every = action == "split" and scanner.keyword("every")
    number = scanner.number("the number of a turn")
    if number < 1:
        raise scanner.error("turn: turns are numbered from 1.")
    if every:
        return Rewrite(lambda row: _split_every(row.current, number), scanner.where)
    function = _TURN_ACTIONS[action]

    def rewrite(row: PipelineRow) -> list[Row]:
        return [row.current] if number > len(_turns(row.current)) else function(row.current, number - 1)

    return Rewrite(rewrite, scanner.where)


def _drop_turn(row: Row, index: int) -> list[Row]:
    turns = _turns(row)
    return [_with_turns(row, (*turns[:index], *turns[index + 1 :]))]


def _cut_turns(row: Row, index: int) -> list[Row]:
    """Drop the turn at ``index`` and all after it. A conversation then ends with its last answer before it."""
    turns = _turns(row)[:index]
    if isinstance(row, Conversation):
        turns = _until_answer(turns)
        if not turns:
            raise DataError(f"{row.location}: no answer is left before turn {index + 1}.")
    return [_with_turns(row, turns)]


def _split_turns(row: Row, index: int) -> list[Row]:
    """Split a conversation before the turn at ``index``. Both parts begin with its system turn."""
    if not isinstance(row, Conversation):
        return [row]
    system = row.messages[:1] if row.messages[0].is_system else ()
    parts = [_until_answer(row.messages[:index]), (*system, *row.messages[index:])]
    whole = [part for part in parts if len(part) > len(system) and part[-1].role == "assistant"]
    return [_with_turns(row, part) for part in whole] if len(whole) == len(parts) and index > len(system) else [row]


def _split_every(row: Row, number: int) -> list[Row]:
    """Split a conversation into parts of ``number`` turns, or of more up to the next question. Each begins with its system turn."""
    if not isinstance(row, Conversation):
        return [row]
    system = row.messages[:1] if row.messages[0].is_system else ()
    parts: list[Turns] = [()]
    for turn in row.messages[len(system) :]:
        is_new = len(parts[-1]) >= number and turn.role == "user" and parts[-1][-1].role == "assistant"
        parts[-1:] = [parts[-1], (turn,)] if is_new else [(*parts[-1], turn)]
    return [row] if len(parts) == 1 else [_with_turns(row, (*system, *part)) for part in parts]


def _until_answer(turns: Turns) -> Turns:
    while turns and turns[-1].role != "assistant":
        turns = turns[:-1]
    return turns


_TURN_ACTIONS: dict[str, Callable[[Row, int], list[Row]]] = {"drop": _drop_turn, "cut": _cut_turns, "split": _split_turns}

SYSTEM = Verb(
    "system set|prepend|append FILE, or system drop",
    "set, extend or remove the system turn, with the text in a file",
    _parse_system,
)
TURN = Verb(
    "turn drop|cut|split [every] N",
    "drop turn N, cut it and all after it, or split the conversation before it, or after every N turns",
    _parse_turn,
)
