"""One record of a source file as a row, or a sentence that says why not. Every record is looked at for itself.

| format | keys | from |
|---|---|---|
| chat | ``messages``, ``tools`` | OpenAI's chat fine-tuning; TRL's conversational language modeling |
| completion | ``prompt``, ``completion``: text or turns | TRL's prompt-completion |
| text | ``text`` | TRL's language modeling |
| alpaca | ``instruction``, ``input``, ``output``, ``history`` | Stanford Alpaca; LLaMA-Factory joins instruction and input by a line end |
| sharegpt | ``conversations`` of ``from`` and ``value``, ``tools`` | ShareGPT; LLaMA-Factory's calls and observations |
| preference | ``chosen``, ``rejected``, a prompt or a shared beginning | TRL's preference, explicit or implicit prompt |
| openai-preference | ``input``, ``preferred_output``, ``non_preferred_output`` | OpenAI's preference fine-tuning |
| unpaired | ``prompt``, ``completion``, ``label`` | TRL's unpaired preference (KTO) |
| transcript | any of the above texts as ``Human: … Assistant: …`` | Anthropic's hh-rlhf |

``system`` beside them is the system prompt, where the turns bring none. Every other key is the row's metadata.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.text import nearest, one_line
from mlxtune.data.readers import ASKED, READERS, Record, says_label, whole
from mlxtune.data.rows import Place, Row, RowError
from mlxtune.data.turns import Refusal, is_transcript

FORMATS = tuple(READERS)
KEYS = (  # what a record may be read by: what a map can name
    "messages", "tools", "system", "prompt", "completion", "label", "text", "instruction", "input", "output", "history",
    "conversations", "chosen", "rejected", "preferred_output", "non_preferred_output", "meta",
)  # fmt: skip
ANSWERED = ("completion", "answer", "response", "output", "solution", "target", "assistant")
EMPTY: Mapping[str, str] = MappingProxyType({})

_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def columns(text: str) -> dict[str, str]:
    """``prompt=question,completion=answer`` as ``{"prompt": "question", "completion": "answer"}``: our key, the file's column.

    Raises ``DataError`` as :func:`check_mapping` does.
    """
    pairs = [pair.partition("=") for pair in text.split(",")]
    if any(not (key.strip() and column.strip()) for key, _, column in pairs):
        raise DataError(
            f"The map {one_line(text, 60)} is not of the form key=column.", mend="For example: prompt=question,completion=answer"
        )
    mapping = {key.strip(): column.strip() for key, _, column in pairs}
    check_mapping(mapping)
    return mapping


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Raise ``DataError`` unless every key is one a record is read by and every value the name of a column, named once."""
    for key, column in mapping.items():
        if key not in KEYS:
            hint = nearest(key, KEYS)
            raise DataError(
                f"The map names {one_line(key, 30)}, which no format has.",
                mend=f"Did you mean {hint}?" if hint else f"It may name {', '.join(KEYS)}.",
            )
        if not isinstance(column, str) or list(mapping.values()).count(column) > 1:
            raise DataError(f"The map must give {key} a column of its own, by its name.", mend='For example: prompt = "question"')


def detect(record: Record) -> str | None:
    """The format of one record, by its keys and whether its texts are transcripts; ``None`` when no format fits."""
    if "preferred_output" in record and "non_preferred_output" in record:
        return "openai-preference"
    if "chosen" in record and "rejected" in record:
        return "transcript" if is_transcript(whole(record, "chosen")) else "preference"
    if "messages" in record:
        return "chat"
    if "conversations" in record:
        return "sharegpt"
    if "prompt" in record and "completion" in record:
        if is_transcript(whole(record, "completion")):
            return "transcript"
        return "unpaired" if says_label(record) else "completion"
    if "instruction" in record and "output" in record:
        return "alpaca"
    if "text" in record:
        return "transcript" if is_transcript(record["text"]) else "text"
    return None


def parse(record: Any, place: Place, format: str = "auto", mapping: Mapping[str, str] = EMPTY) -> Row:
    """``record`` as a row. ``mapping`` gives keys of ours the file's names for them.

    Raises ``RowError`` with the place, the reason and the way to mend it.
    """
    try:
        if not isinstance(record, dict):
            raise Refusal(f"a row must be a JSON object, not {type(record).__name__}.", 'Write it as {"messages": […]}.')
        if mapping:
            record = _renamed(record, mapping)
        found = detect(record) if format == "auto" else format
        if found is None:
            raise _unknown(record)
        row = dataclasses.replace(READERS[found](record, place), format=found)
        _check_text(row)
    except Refusal as refusal:
        raise RowError(place, refusal.why, mend=refusal.mend) from None
    return row


def _renamed(record: Record, mapping: Mapping[str, str]) -> dict[str, Any]:
    for column in mapping.values():
        if column not in record:
            raise Refusal(f"it has no {one_line(column, 30)}, which the map names.", "Correct the map, or add the column.")
    rest = {key: value for key, value in record.items() if key not in mapping.values()}
    return {**rest, **{key: record[column] for key, column in mapping.items()}}


def _unknown(record: Record) -> Refusal:
    keys = ", ".join(one_line(str(key), 20) for key in list(record)[:6]) or "no keys"
    asked = next((key for key in ASKED if key in record), None)
    answered = next((key for key in ANSWERED if key in record), None)
    mend = 'A row is {"messages": …}, {"prompt": …, "completion": …} or {"text": …}.'
    if asked and answered:
        mend = f"Say which is which: --map prompt={asked},completion={answered}, or data.map in a recipe."
    return Refusal(f"no known format has these keys: {keys}.", mend)


def _check_text(row: Row) -> None:
    """Refuse what no tokenizer takes and no file can hold: halves of surrogate pairs, and NUL."""
    try:
        text = _ENCODE([row.content, row.meta])
        text.encode()
    except UnicodeEncodeError as error:
        raise Refusal("the text holds half of a surrogate pair, which is no character.", "Save the row again as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise Refusal("it holds a number or a nesting that JSON has no place for.", "Correct it, or remove the row.") from error
    if "\\u0000" in text and _NUL.search(text):
        raise Refusal("the text holds a NUL character.", "Remove it: it ends the text for many programs.")
