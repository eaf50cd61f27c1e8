"""One JSON record of a source file as a row, or a sentence that says why not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line
from mlxtune.data.rows import Conversation, Message, Place, Preference, Row, Text

ROLES = ("system", "developer", "user", "assistant", "tool")
FORMATS = ("chat", "completion", "text", "preference")


def detect(record: Mapping[str, Any]) -> str | None:
    """The format of one record, by its keys; ``None`` when no format fits."""
    if "chosen" in record and "rejected" in record:
        return "preference"
    if "messages" in record:
        return "chat"
    if "prompt" in record and "completion" in record:
        return "completion"
    return "text" if "text" in record else None


def parse(record: Any, place: Place, format: str = "auto") -> Row:
    """``record`` as a row. Raises ``DataError`` with the place, the reason and the way to mend it."""
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: a row must be a JSON object, not {type(record).__name__}.")
    found = detect(record) if format == "auto" else format
    if found is None:
        keys = ", ".join(one_line(str(key), 20) for key in list(record)[:6]) or "no keys"
        raise DataError(
            f"{place}: no known format has these keys: {keys}.",
            mend='A row is {"messages": …}, {"prompt": …, "completion": …} or {"text": …}.',
        )
    row = _PARSERS[found](record, place)
    try:
        json.dumps(row.content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: the text holds half of a surrogate pair, which is no character.", mend="Save the row again as UTF-8."
        ) from error
    return row


def _chat(record: Mapping[str, Any], place: Place) -> Conversation:
    messages = _messages(record.get("messages"), place, "messages")
    if messages[-1].role != "assistant":
        raise DataError(
            f"{place}: no assistant turn at the end, so there is nothing to train.", mend="Add the answer, or remove the row."
        )
    for before, after in itertools.pairwise(messages):
        if before.role == after.role == "assistant" or (before.role == after.role == "user"):
            raise DataError(f"{place}: two {before.role} turns in a row.", mend="Join them, or add the turn between them.")
    for message in messages:
        if message.role == "assistant" and not message.content.strip() and "tool_calls" not in message.extra:
            raise DataError(f"{place}: an assistant turn is empty.", mend="Write the answer, or remove the row.")
    if not any(message.role == "user" for message in messages):
        raise DataError(f"{place}: no user turn.", mend="Add what the user asked.")
    tools = record.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(
            f"{place}: tools must be a list of objects.", mend="Each describes one function, with its name and parameters."
        )
    return Conversation(place, _meta(record, ("messages", "tools")), messages, tuple(tools))


def _completion(record: Mapping[str, Any], place: Place) -> Conversation:
    for key in ("prompt", "completion"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise DataError(f"{place}: {key} must be text that is not empty.")
    messages = (Message("user", record["prompt"]), Message("assistant", record["completion"]))
    return Conversation(place, _meta(record, ("prompt", "completion")), messages)


def _text(record: Mapping[str, Any], place: Place) -> Text:
    text = record.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: text must be text that is not empty.")
    return Text(place, _meta(record, ("text",)), text)


def _preference(record: Mapping[str, Any], place: Place) -> Preference:
    prompt = record.get("prompt")
    if isinstance(prompt, str) and not prompt.strip():
        raise DataError(f"{place}: prompt must be text that is not empty.")
    messages = (Message("user", prompt),) if isinstance(prompt, str) else _messages(prompt, place, "prompt")
    answers = []
    for key in ("chosen", "rejected"):
        answer = record.get(key)
        if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], Mapping):
            answer = answer[0].get("content")
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(f"{place}: {key} must be an answer: text, or a list with one assistant turn.")
        answers.append(answer)
    if answers[0] == answers[1]:
        raise DataError(f"{place}: chosen and rejected are the same.")
    return Preference(place, _meta(record, ("prompt", "chosen", "rejected")), messages, *answers)


_PARSERS: dict[str, Callable[[Mapping[str, Any], Place], Row]] = {
    "chat": _chat,
    "completion": _completion,
    "text": _text,
    "preference": _preference,
}


def _messages(value: Any, place: Place, key: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: {key} must be a list of turns that is not empty.")
    return tuple(_message(turn, place, number) for number, turn in enumerate(value, 1))


def _message(turn: Any, place: Place, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{place}: turn {number} must be an object with role and content.")
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise DataError(f"{place}: turn {number} has the role {one_line(str(role), 30)}.", mend=f"Roles are {', '.join(ROLES)}.")
    if isinstance(content, list):  # content given as parts
        parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else parts  # type: ignore[arg-type]
    if content is None and turn.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise DataError(f"{place}: the content of turn {number} must be text.")
    extra = {key: turn[key] for key in ("tool_calls", "tool_call_id", "name") if turn.get(key) is not None}
    return Message(role, content, extra)


def _meta(record: Mapping[str, Any], taken: tuple[str, ...]) -> dict[str, Any]:
    own = record.get("meta")
    rest = {key: value for key, value in record.items() if key not in (*taken, "meta")}
    return {**rest, **own} if isinstance(own, Mapping) else rest
