"""The registry of row formats: detect the format of a record and read it.

| format | keys |
|---|---|
| openai-preference | ``input``, ``preferred_output``, ``non_preferred_output`` |
| transcript | any of the texts below as ``Human: … Assistant: …``, or rendered with a chat template |
| preference | ``chosen``, ``rejected``, and a prompt or a shared beginning; ``chosen_messages``, ``rejected_messages`` |
| unpaired | ``prompt``, ``completion``, ``label``; ``messages`` or ``conversations``, ``label`` (true or false) |
| chat | ``messages``, ``tools`` |
| sharegpt | ``conversations`` of ``from`` and ``value``, ``tools`` |
| completion | ``prompt``, ``completion``: text or turns |
| alpaca | ``instruction``, ``input``, ``output``, ``history`` |
| export | records of labeling tools and logs of chat APIs: see ``exports.py`` |
| scored-pair | two answers, such as ``response_j`` and ``response_k``, with scores |
| text | ``text`` |

``system`` is the system prompt if the turns have none. All other keys are row metadata.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line, suggest
from mlxtune.data.readers.alpaca import ALPACA
from mlxtune.data.readers.chat import CHAT, SHAREGPT
from mlxtune.data.readers.columns import apply_mapping, guess_mapping, mapping_option
from mlxtune.data.readers.completion import COMPLETION, UNPAIRED
from mlxtune.data.readers.exports import EXPORT, SCORED
from mlxtune.data.readers.preference import OPENAI_PREFERENCE, PREFERENCE
from mlxtune.data.readers.row_format import InvalidRecord, Record, RowFormat, metadata, text_field
from mlxtune.data.readers.transcript import TRANSCRIPT
from mlxtune.data.rows import Conversation, Location, Preference, Row, RowError, TextRow, Unpaired

TEXT = RowFormat(  # as in TRL's language modeling
    "text",
    ("text",),
    lambda record: "text" in record,
    lambda record, location: TextRow(location, metadata(record, "text"), text_field(record, "text")),
)
# In the order of detection: the first format that matches a record reads it.
FORMATS: dict[str, RowFormat] = {
    one.name: one
    for one in (EXPORT, OPENAI_PREFERENCE, TRANSCRIPT, PREFERENCE, UNPAIRED, CHAT, SHAREGPT, COMPLETION, ALPACA, SCORED, TEXT)
}  # fmt: skip
KEYS = tuple(dict.fromkeys(key for one in FORMATS.values() for key in (*one.keys, "meta")))  # keys that a mapping can name
# The format of ``Row.content`` for each kind of row
CONTENT_FORMATS: dict[type[Row], str] = {Conversation: "chat", TextRow: "text", Preference: "preference", Unpaired: "unpaired"}

NO_MAPPING: Mapping[str, str] = MappingProxyType({})
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
BREAK = "\ufdd0"  # a noncharacter that marks control tokens in a message while it is encoded
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def parse_mapping(text: str) -> dict[str, str]:
    """Parse a map from our keys to the source's columns: ``prompt=question,completion=answer``. Raises ``DataError``."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    if any(not (key.strip() and column.strip()) for key, _, column in pairs):
        example = "For example: prompt=question,completion=answer"
        raise DataError(f"The map {one_line(text, 60)} does not have the form key=column.", hint=example)
    mapping = {key.strip(): column.strip() for key, _, column in pairs}
    check_mapping(mapping)
    return mapping


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Raise ``DataError`` unless every key belongs to a format and every column is named only once."""
    for key, column in mapping.items():
        if key not in KEYS:
            hint = f"A map is key=column. Did you mean {column}={one_line(key, 30)}?" if column in KEYS else suggest(key, KEYS)
            raise DataError(f"The map has the unknown key {one_line(key, 30)}.", hint=hint)
        if not isinstance(column, str) or list(mapping.values()).count(column) > 1:
            raise DataError(
                f"The map must name exactly one column for {key}, and no column twice.", hint='For example: prompt = "question"'
            )


def check_format(name: str) -> None:
    if name != "auto" and name not in FORMATS:
        raise DataError(f"Unknown format {one_line(name, 30)}.", hint=suggest(name, ("auto", *FORMATS)))


def detect(record: Record) -> str | None:
    """Return the name of the record's format, or ``None`` if it is unknown."""
    return next((one.name for one in FORMATS.values() if one.matches(record)), None)


def as_object(record: Any, location: Location) -> Any:
    """Return a list of texts or turns, or a text in a JSON array, as an object; any other record unchanged."""
    if isinstance(record, list) and record and all(isinstance(one, str | dict) for one in record):
        return {"messages": record}
    return {"text": record} if isinstance(record, str) and location.element else record


def parse(record: Any, location: Location, format: str = "auto", mapping: Mapping[str, str] = NO_MAPPING) -> Row:
    """Convert ``record`` to a row; ``mapping`` maps our keys to the source's column names. Raises ``RowError``."""
    try:
        record = as_object(record, location)
        if not isinstance(record, dict):
            raise InvalidRecord(f"a row must be a JSON object, not {type(record).__name__}.", 'Write it as {"messages": […]}.')
        if mapping:
            record = apply_mapping(record, mapping)
        name = detect(record) if format == "auto" else format
        if name is None:
            raise _unknown_format(record)
        row = dataclasses.replace(FORMATS[name].read(record, location), format=name)
        _check_encodable(row)
    except InvalidRecord as error:
        raise RowError(location, error.reason, hint=error.hint, kind=error.kind) from None
    return row


def _unknown_format(record: Record) -> InvalidRecord:
    keys = ", ".join(one_line(str(key), 20) for key in list(record)[:6]) or "no keys"
    hint = 'Write a row as {"messages": …}, {"prompt": …, "completion": …} or {"text": …}.'
    mapping = guess_mapping(record)
    texts = [key for key, value in record.items() if isinstance(value, str)]
    if mapping.keys() == {"text"} and len(texts) == len(record) == 2:
        mapping = dict(zip(("prompt", "completion"), texts, strict=True))
    if mapping:
        is_clear = len(texts) <= 2 or mapping.keys() != {"text"}
        hint = f"Map the columns: {mapping_option(mapping) if is_clear else '--map'}, or data.map in a recipe."
    return InvalidRecord(f"no known format has these keys: {keys}.", hint)


def _check_encodable(row: Row) -> None:
    """Reject text that tokenizers or files cannot represent: lone surrogates and NUL."""
    try:
        text = _ENCODE([row.content, row.meta])
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord("the text has a lone surrogate, which is not a character.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("the row has a number or nesting that JSON does not allow.") from error
    if BREAK in text:
        raise InvalidRecord("the text has U+FDD0, which is not a character.")
    if "\\u0000" in text and _NUL.search(text):
        raise InvalidRecord("the text has a NUL character.")
