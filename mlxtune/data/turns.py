"""The turns of a conversation, however a file writes them: roles or ShareGPT names, text or parts, tool calls, transcripts."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from mlxtune.core.text import one_line, plural
from mlxtune.data.rows import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
NAMES = {  # who speaks in a ShareGPT turn
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    "system": "system",
}
DEPTH = 100  # levels of a record: far more than a tool's schema needs, far fewer than Python's own recursion takes
KEPT = ("tool_call_id", "name", "reasoning_content")  # what templates take from a turn beside role, content and tool_calls

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


class Refusal(Exception):
    """Why a row cannot be used, and the way to mend it; where it stands is known further up."""

    def __init__(self, why: str, mend: str) -> None:
        super().__init__(why)
        self.why = why
        self.mend = mend


def loads(text: str) -> Any:
    """The JSON value in ``text``, by the letter of RFC 8259: no NaN, no number too large for a double, at most ``DEPTH`` levels.

    Raises ``ValueError``.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {DEPTH} levels") from error
    # Both counts are cheap and bound the depth, so that hardly any value is walked through.
    if text.count("[") + text.count("{") > DEPTH and _deep(value):
        raise ValueError(f"it is nested deeper than {DEPTH} levels")
    return value


def _deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            inner for one in level if isinstance(one, dict | list) for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _number(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {one_line(text, 20)} is too large")
    return number


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_constant)


def turns(value: Any, key: str) -> tuple[Message, ...]:
    """``value``, a list of turns that stands under ``key``, as messages. Raises ``Refusal``."""
    if not isinstance(value, list) or not value:
        raise Refusal(f"{key} must be a list of turns that is not empty.", 'A turn is {"role": "user", "content": "…"}.')
    return tuple(_turn(turn, number) for number, turn in enumerate(value, 1))


def _turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise Refusal(f"turn {number} must be an object with role and content.", 'Write it as {"role": "user", "content": "…"}.')
    if "from" in turn and "role" not in turn:
        return _sharegpt(turn, number)
    role, content = turn.get("role"), turn.get("content")
    calls = turn.get("tool_calls")
    if role == "function":  # how the API called a tool's turn before it had tools
        role = "tool"
    if role == "assistant" and not calls and isinstance(turn.get("function_call"), dict):
        calls = [turn["function_call"]]
    if role not in ROLES:
        raise Refusal(f"turn {number} has the role {one_line(str(role), 30)}.", f"Roles are {', '.join(ROLES)}.")
    if role == "assistant" and turn.get("weight", 1) not in (1, None):
        raise Refusal(
            f"turn {number} has the weight {one_line(str(turn['weight']), 10)}, but every assistant turn is trained.",
            "End the row with the turn to be trained, and start it behind the one that is not.",
        )
    if content is None and calls:
        content = ""
    extra = _extra(turn)
    if calls:
        extra = {"tool_calls": _calls(calls, number), **extra}
    return Message(role, _text(content, number), extra)


def _sharegpt(turn: Mapping[str, Any], number: int) -> Message:
    name, value = turn["from"], turn.get("value")
    role = NAMES.get(name) if isinstance(name, str) else None
    if role is None:
        raise Refusal(f"turn {number} is from {one_line(str(name), 30)}.", f"A turn is from {', '.join(NAMES)}.")
    if role == "call":
        return Message("assistant", "", {"tool_calls": _calls(_json(value, f"the call of turn {number}"), number)})
    return Message(role, _text(value, number), _extra(turn))


def _extra(turn: Mapping[str, Any]) -> dict[str, Any]:
    return {key: turn[key] for key in KEPT if turn.get(key) is not None} if len(turn) > 2 else {}


def _text(content: Any, number: int) -> str:
    if isinstance(content, list) and content:  # content given as parts
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in content]
        if texts := [part for part in parts if isinstance(part, str)]:
            content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise Refusal(f"the content of turn {number} must be text.", "Only text is trained: write it out, or remove the row.")
    return content


def _calls(value: Any, number: int) -> list[dict[str, Any]]:
    """Tool calls with their arguments as objects, which is what chat templates render; the API sends them as a string."""
    given = value if isinstance(value, list) else [value]
    calls = []
    for call in given:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Refusal(f"turn {number} calls a tool without a name.", 'A call is {"function": {"name": "…", "arguments": {…}}}.')
        arguments = _json(function.get("arguments", {}), f"arguments of {one_line(function['name'], 30)} in turn {number}")
        if not isinstance(arguments, dict):
            raise Refusal(f"the arguments of a call in turn {number} must be an object.", 'Write them as {"name": value, …}.')
        if function is call:
            calls.append({"type": "function", "function": {**call, "arguments": arguments}})
        else:
            calls.append({**call, "function": {**function, "arguments": arguments}})
    return calls


def _json(value: Any, what: str) -> Any:
    """``value``, read as JSON if it is a string."""
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except ValueError as error:
        raise Refusal(
            f"the {what.removeprefix('the ')} are not valid JSON: {one_line(str(error), 80)}.", "Write an object."
        ) from error


def tools(value: Any) -> tuple[dict[str, Any], ...]:
    """Function descriptions: a list of objects, or the same as a JSON string."""
    given = _json(value, "tools") if isinstance(value, str) and value.strip() else value
    if not given:
        return ()
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise Refusal("tools must be a list of objects.", "Each describes one function, with its name and parameters.")
    return tuple(given)


def is_transcript(value: Any) -> bool:
    """Whether ``value`` is text of the kind ``Human: … Assistant: …``."""
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def transcript(text: str) -> list[dict[str, str]]:
    """The turns of ``\\n\\nHuman: … \\n\\nAssistant: …``, as in Anthropic's hh-rlhf; what stands before the first is the system's."""
    head, *parts = _SPEAKER.split("\n\n" + text.lstrip())
    system = [{"role": "system", "content": head.strip()}] if head.strip() else []
    roles = {"Human": "user", "Assistant": "assistant"}
    return [*system, *({"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True))]


def check_order(messages: Sequence[Message]) -> None:
    """Refuse turns that no conversation has: two of one side in a row, an assistant that says and calls nothing."""
    for before, after in itertools.pairwise(messages):
        if before.role == after.role and before.role in ("assistant", "user"):
            raise Refusal(f"two {before.role} turns in a row.", "Join them, or add the turn between them.")
    if any(turn.role == "assistant" and not turn.content.strip() and "tool_calls" not in turn.extra for turn in messages):
        raise Refusal("an assistant turn is empty.", "Write the answer, or remove the row.")
    if not any(message.role == "user" for message in messages):
        raise Refusal("no user turn.", "Add what the user asked.")


def answer(message: Message, key: str) -> str:
    """The text of the one turn that answers. Raises ``Refusal`` when it is not the assistant's, is empty or calls tools."""
    if message.role != "assistant":
        raise Refusal(f"the last turn of {key} is the {message.role}'s, so it is no answer.", "End it with the assistant's turn.")
    if "tool_calls" in message.extra:
        raise Refusal(f"{key} calls a tool; an answer that is compared must be text.", "Write the answer, or remove the row.")
    if not message.content.strip():
        raise Refusal(f"{key} must be an answer that is not empty.", "Write the answer, or remove the row.")
    return message.content


def shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    """How many turns both begin with, of which at least one is left over in each."""
    limit = min(len(one), len(other)) - 1
    return next((at for at in range(limit) if one[at] != other[at]), max(limit, 0))


def told(messages: Sequence[Message]) -> str:
    """``one assistant turn``, ``3 turns``: for a message."""
    return f"one {messages[0].role} turn" if len(messages) == 1 else plural(len(messages), "turn")
