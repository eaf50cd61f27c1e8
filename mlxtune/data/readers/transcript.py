"""Transcripts: any text that is a chat, of the form ``Human: … Assistant: …`` or rendered with a chat template."""

from typing import Any

from mlxtune.data.readers import chat, completion, preference
from mlxtune.data.readers.rendered import chat_text_turns, is_chat_text
from mlxtune.data.readers.row_format import InvalidRecord, Record, RowFormat
from mlxtune.data.rows import Location, Row


def _matches(record: Record) -> bool:
    if "chosen" in record and "rejected" in record:
        return is_chat_text(_full_text(record, "chosen"))
    if "messages" in record or "conversations" in record:
        return False
    if "prompt" in record and "completion" in record:
        return is_chat_text(_full_text(record, "completion"))
    return "text" in record and not ("instruction" in record and "output" in record) and is_chat_text(record["text"])


def _read(record: Record, location: Location) -> Row:
    """Convert the transcripts to turns and read the row as the format that has the same keys."""
    if "chosen" in record and "rejected" in record:
        pair = {key: _turns(record, key) for key in ("chosen", "rejected")}
        return preference.read({**{key: value for key, value in record.items() if key != "prompt"}, **pair}, location)
    if "completion" in record:
        *prompt, answer = _turns(record, "completion")
        split = {**record, "prompt": prompt, "completion": [answer]}
        labeled = completion.has_preference_label(record)
        return completion.read_unpaired(split, location) if labeled else completion.read(split, location)
    rest = {key: value for key, value in record.items() if key != "text"}
    return chat.read({**rest, "messages": _turns(record, "text")}, location)


def _full_text(record: Record, key: str) -> Any:
    """Return the prompt and the text under ``key`` as one text: a transcript may be split between the two."""
    prompt, text = record.get("prompt"), record.get(key)
    if isinstance(prompt, str) and isinstance(text, str):
        return text if text.startswith(prompt) else prompt + text
    return text


def _turns(record: Record, key: str) -> list[dict[str, str]]:
    turns = chat_text_turns(text) if isinstance(text := _full_text(record, key), str) else []
    if not any(turn["role"] == "assistant" for turn in turns):
        raise InvalidRecord(
            f"{key} is not a transcript with an assistant turn.", "Write it as Human: … and, after a blank line, Assistant: …"
        )
    return turns


TRANSCRIPT = RowFormat(
    "transcript", ("prompt", "chosen", "rejected", "completion", "label", "text", "tools", "system"), _matches, _read
)
