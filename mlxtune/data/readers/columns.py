"""Column maps: map a source's columns, including nested values, to our keys, and guess the map from a record.

A column is a key of the record, or a path such as ``instances[0].output``. In ``labels[]``, a list may be missing or empty, and is then ``[]`` as JSON text.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from mlxtune.core.text import one_line, suggest
from mlxtune.data.readers.row_format import PROMPT_COLUMNS, InvalidRecord, Record

MAX_DEPTH = 3  # levels of nesting below the record in :func:`columns`

_NAME = re.compile(r"[^.\[\]]+")
_STEP = re.compile(rf"\.({_NAME.pattern})|\[(\d+)\]")
_PATH = re.compile(rf"{_NAME.pattern}(?:{_STEP.pattern})+")
PROMPTS = (*PROMPT_COLUMNS, "utterance", "message", "sentence", "text", "human", "source", "title")
ANSWERS = (
    "completion", "answer", "response", "output", "ground_truth", "expected", "solution", "target", "assistant", "reply", "bot", "summary", "translation", "sql",
)  # fmt: skip
_SYSTEM = ("system_prompt", "system_message", "system_instruction", "system_instructions")
_TURNS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "data")
_LABELS = ("label", "intent", "category", "class", "sentiment", "topic", "cats")  # answers of a classifier
_CHOSEN = ("chosen", "preferred", "accepted", "better", "winner", "good")
_REJECTED = ("rejected", "dispreferred", "worse", "loser", "bad")


def apply_mapping(record: Record, mapping: Mapping[str, str]) -> dict[str, Any]:
    """Return ``record`` with our keys. Raises ``InvalidRecord`` if it lacks one of the columns."""
    mapped = {}
    for key, column in mapping.items():
        try:
            mapped[key] = column_value(record, column)
        except LookupError:
            reason = f"the row has no column {one_line(column, 40)}, which the map names."
            names = [one_line(name, 40) for name, _ in columns(record)]
            raise InvalidRecord(reason, f"Correct the map. {suggest(column, names[:20], 'The columns are')}") from None
    return {**{key: value for key, value in record.items() if not {key, f"{key}[]"}.intersection(mapping.values())}, **mapped}


def column_value(record: Record, column: str) -> Any:
    """Return the value of a column. Raises ``LookupError`` if there is none."""
    if column.endswith("[]") and column not in record:
        with suppress(LookupError):
            found = column_value(record, column[:-2])
            return "[]" if found in (None, "", []) else found
        return "[]"
    if column in record or not _PATH.fullmatch(column):
        return record[column]
    value: Any = record[_STEP.split(column, maxsplit=1)[0]]
    for name, number in _STEP.findall(column):
        if not isinstance(value, dict if name else list):
            raise KeyError(column)
        value = value[name] if name else value[int(number)]
    return value


def columns(record: Record) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a record with their values. Of a list of objects, only the first one's are included.

    Values that no path reaches are left out: those below a key that is empty or contains a period or a bracket.
    """

    def walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        yield path, value
        if depth < MAX_DEPTH and isinstance(value, dict):
            for key, item in value.items():
                if _NAME.fullmatch(key):
                    yield from walk(item, f"{path}.{key}", depth + 1)
        elif depth < MAX_DEPTH and isinstance(value, list) and value and isinstance(value[0], dict):
            yield from walk(value[0], f"{path}[0]", depth + 1)

    for key, value in record.items():
        yield from walk(value, key, 0 if _NAME.fullmatch(key) else MAX_DEPTH)


def guess_mapping(record: Record) -> dict[str, str]:
    """Return a map for a record in no known format, or one whose answer would be ignored; empty if there is no such map."""
    found = dict(columns(record))
    texts = [path for path, value in found.items() if isinstance(value, str) and _name(path) not in _SYSTEM]
    chosen, rejected = find_column(texts, _CHOSEN, (), record), find_column(texts, _REJECTED, (), record)
    keys = [key for key in (*_TURNS, "prompt", "input") if key in record]
    turns = [key for key in keys if key in _TURNS[:3] or _is_dialog(record[key], of_texts=key in _TURNS)]
    prompt = turns[0] if turns else find_column(texts, PROMPTS, {chosen, rejected}, record)
    if prompt and chosen and rejected:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    inside = tuple(f"{prompt}{sign}" for sign in ".[") if prompt else ()
    values = [path for path, value in found.items() if value not in (None, [], {}) and not path.startswith(inside)]
    answer = (
        find_column(values, ANSWERS, {prompt}, record)
        or ("text" if prompt == "prompt" and "text" in texts else "")
        or find_column(values, _LABELS, {prompt}, record)
    )
    if turns and not answer:
        return {} if prompt in _TURNS[:2] else {"messages": prompt}
    if prompt and answer:
        inner = [f"{answer}{step}" for step in (".text", ".content", "[0].completion", "[0].text", "[0].content")]
        answer = next((path for path in inner if isinstance(found.get(path), str | list)), answer)
        extra_input = find_column(texts, ("input", "context"), {prompt, answer}, record)
        if extra_input and _name(prompt) in ("instruction", "question"):
            pairs = {"instruction": prompt, "input": extra_input, "output": answer}
            return {key: column for key, column in pairs.items() if key != column}
        return {"prompt": prompt, "completion": answer}
    longest = max(texts, key=lambda path: len(column_value(record, path)), default="")
    return {"text": longest} if longest and not prompt else {}


def system_mapping(record: Record) -> dict[str, str]:
    """Return the map of a column with the system prompt under another name than our own."""
    column = "" if "system" in record else next((key for key in record if _name(key) in _SYSTEM), "")
    return {"system": column} if isinstance(record.get(column), str) else {}


def mapping_option(mapping: Mapping[str, str]) -> str:
    """Return a map as the command line takes it: ``--map prompt=question,completion=answer``, quoted if necessary."""
    text = ",".join(f"{key}={column}" for key, column in mapping.items())
    return f"--map {text}" if re.fullmatch(r"[\w=,./-]+", text) else "--map '" + text.replace("'", "'\\''") + "'"


def _is_dialog(value: Any, *, of_texts: bool) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    are_turns = isinstance(first, dict) and not first.keys().isdisjoint({"role", "from"})
    return are_turns or (of_texts and first is not None and len(value) > 1 and all(isinstance(one, str) for one in value))


def find_column(paths: Collection[str], names: Collection[str], taken: Collection[str] = (), literal: Collection[str] = ()) -> str:
    """Return the first of ``paths`` with one of ``names``, in their order. Whole names are matched before parts of names.

    The ``literal`` paths are names with periods.
    """
    free = {path: _name(path, literal) for path in paths if path not in taken}
    whole = ((path, name) for name in names for path, own in free.items() if own in (name, f"{name}s"))
    parts = ((path, name) for name in names for path, own in free.items() if name in own.split("_"))
    return next((path for path, _ in itertools.chain(whole, parts)), "")


def _name(path: str, literal: Collection[str] = ()) -> str:
    """Return the last name of a path in lower case, words joined by underscores."""
    last = path if path in literal else re.split(r"[.\[\]]+", path.rstrip("]"))[-1]
    last = last if not last.isdigit() else path
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower()).strip("_")
