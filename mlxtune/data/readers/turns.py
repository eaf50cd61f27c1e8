"""Read the turns of a conversation: roles or ShareGPT names, text or content parts, and tool calls."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, NoReturn

from mlxtune.core.text import one_line, plural
from mlxtune.data.readers.row_format import InvalidRecord, Record, answer_value, empty_kind
from mlxtune.data.rows import REASONING, Message, assistant_message, is_deeper, join_reasoning, split_reasoning

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    "system": "system",
}
MAX_DEPTH = 100  # nesting levels: far more than a tool schema needs, far fewer than Python's recursion limit
EXTRA_KEYS = ("tool_call_id", "name")  # used by templates, besides role, content and tool_calls
REASONING_KEYS = (REASONING, "reasoning", "thinking")  # the formats' keys for the reasoning before an answer

_TURN_KEYS = {"role", "from", "content"}
_TURN_HINT = 'Write a turn as {"role": "user", "content": "…"}.'


def loads(text: str) -> Any:
    """Parse strict JSON (RFC 8259): no NaN, no number out of range, at most ``MAX_DEPTH`` levels. Raises ``ValueError``."""
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from error
    # The bracket counts bound the depth and are cheap, so few values are walked.
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deeper(value, MAX_DEPTH + 1):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def _parse_float(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {one_line(text, 20)} is too large")
    return number


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON value")


_DECODER = json.JSONDecoder(parse_float=_parse_float, parse_constant=_reject_constant)


def _parsed_turns(value: Any) -> Any:
    """Return the turns that ``value`` contains as JSON text, or that are texts of the user and the assistant by turns; otherwise ``value``."""
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(value)]
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        turns = loads(value)
    except ValueError:
        return value
    return turns if turns and all(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in turns) else value


def read_turns(value: Any, key: str) -> tuple[Message, ...]:
    """Convert ``value``, the list of turns under ``key``, or its JSON text, to messages."""
    value = _parsed_turns(value)
    if not isinstance(value, list) or not value:
        raise InvalidRecord(f"{key} must be a non-empty list of turns.", _TURN_HINT)
    return tuple(_turn(turn, number) for number, turn in enumerate(value, 1))


def turns_or_text(record: Record, key: str, role: str) -> tuple[Message, ...]:
    """Return the turns under ``key``. A string becomes one turn with ``role``."""
    value = record.get(key)
    value = value if role == "assistant" and isinstance(value, list) else _parsed_turns(value)
    turns = [value] if isinstance(value, dict) else value
    if isinstance(turns, list) and (
        role != "assistant" or any(isinstance(turn, dict) and turn.keys() & _TURN_KEYS for turn in turns)
    ):
        return read_turns(turns, key)
    value = answer_value(value) if role == "assistant" else value
    if not isinstance(value, str) or not value.strip():
        raise InvalidRecord(f"{key} must be a non-empty string or a list of turns.", kind=empty_kind(key))
    return (assistant_message(value) if role == "assistant" else Message(role, value),)


def _turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise InvalidRecord(f"turn {number} must be an object with role and content.", _TURN_HINT)
    if "from" in turn and "role" not in turn:
        return _sharegpt_turn(turn, number)
    if isinstance(turn.get("content"), list) and any(isinstance(part, dict) and "value" in part for part in turn["content"]):
        turn = _from_llamafactory(turn, number)
    role, content = turn.get("role"), turn.get("content")
    calls = turn.get("tool_calls")
    if role == "function":  # the API's name for tool turns before it had tools
        role = "tool"
    if role == "assistant" and not calls and isinstance(turn.get("function_call"), dict):
        calls = [turn["function_call"]]
    if role not in ROLES:
        raise InvalidRecord(f'turn {number} has the unknown role "{one_line(str(role), 30)}".', f"Valid roles: {', '.join(ROLES)}.")
    if content is None and calls:
        content = ""
    extra = {**({"tool_calls": _tool_calls(calls, number)} if calls else {}), **_extra(turn)}
    return _message(role, turn, content, extra, number)


def _from_llamafactory(turn: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Convert a turn of LLaMA-Factory v1, whose parts are texts, reasoning and calls keyed ``value``, to OpenAI's format."""
    parts: list[Any] = []
    calls = []
    for part in turn["content"]:
        match part:
            case {"type": "text", "value": value}:
                parts.append({"type": "text", "text": value})
            case {"type": "reasoning", "value": value}:
                parts.append({"type": "thinking", "thinking": value})
            case {"type": "tool_call", "value": value}:
                calls.append(_parse_json(value, f"call in turn {number}"))
            case _:
                parts.append(part)
    result = {key: value for key, value in turn.items() if key != "loss_weight"}
    if "loss_weight" in turn and turn.get("role") == "assistant":
        result["weight"] = turn["loss_weight"]
    return {**result, "content": parts or None, **({"tool_calls": calls} if calls else {})}


def _message(role: str, turn: Mapping[str, Any], content: Any, extra: dict[str, Any], number: int) -> Message:
    """Return a turn; an assistant turn with its reasoning in one place, wherever the record has it, and with its weight."""
    if role != "assistant":
        return Message(role, _content_text(content, number), extra)
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise InvalidRecord(
            f"turn {number} has the weight {one_line(str(weight), 10)}, but a weight is 0 (only read) or 1 (trained)."
        )
    texts = [turn[key] for key in REASONING_KEYS if turn.get(key) not in (None, "")]
    if isinstance(content, list):
        texts += [part.get("thinking") for part in content if isinstance(part, dict) and part.get("type") == "thinking"]
        content = [part for part in content if not (isinstance(part, dict) and part.get("type") == "thinking")]
        content = content or ("" if "tool_calls" in extra else content)
    inline, answer = split_reasoning(_content_text(content, number))
    texts += [inline] if inline else []
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRecord(f"the reasoning of turn {number} must be text.")
    different = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if len(different) > 1:
        raise InvalidRecord(f"turn {number} has two different texts of reasoning.")
    return Message("assistant", answer, {**extra, **dict.fromkeys([REASONING] * len(different), *different)}, weight != 0)


def _sharegpt_turn(turn: Mapping[str, Any], number: int) -> Message:
    name, value = turn["from"], turn.get("value")
    role = SHAREGPT_ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise InvalidRecord(
            f'turn {number} has the unknown sender "{one_line(str(name), 30)}".', f"Valid senders: {', '.join(SHAREGPT_ROLES)}."
        )
    if role == "call":
        return Message("assistant", "", {"tool_calls": _tool_calls(_parse_json(value, f"call in turn {number}"), number)})
    return _message(role, turn, value, _extra(turn), number)


def _extra(turn: Mapping[str, Any]) -> dict[str, Any]:
    return {key: turn[key] for key in EXTRA_KEYS if turn.get(key) is not None} if len(turn) > 2 else {}


def _content_text(content: Any, number: int) -> str:
    if isinstance(content, list) and content:  # content parts
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in content]
        if texts := [part for part in parts if isinstance(part, str)]:
            content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise InvalidRecord(f"the content of turn {number} must be text.")
    return content


def _tool_calls(value: Any, number: int) -> list[dict[str, Any]]:
    """Return tool calls with their arguments as objects, as chat templates expect. The API sends them as a string."""
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            hint = 'Write a call as {"function": {"name": "…", "arguments": {…}}}.'
            raise InvalidRecord(f"turn {number} calls a tool without a name.", hint)
        name = f"arguments of {one_line(function['name'], 30)} in turn {number}"
        given = function.get("arguments", function.get("parameters", {}))
        arguments = _parse_json(_parse_json(given, name), name)  # some files encode them twice
        if not isinstance(arguments, dict):
            raise InvalidRecord(f"the arguments of a call in turn {number} must be an object.")
        described = {**{key: value for key, value in function.items() if key != "parameters"}, "arguments": arguments}
        calls.append({"type": "function", "function": described} if function is call else {**call, "function": described})
    return calls


def with_json_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """Return a tool call with its arguments as JSON text, which OpenAI's API and some chat templates expect."""
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function.get("arguments", {}), ensure_ascii=False)}}


def _parse_json(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except ValueError as error:
        raise InvalidRecord(f"there is invalid JSON in the {name}: {one_line(str(error), 80)}.") from error


def read_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """Return function descriptions in OpenAI's format from a list of objects, or from a JSON string that contains one.

    Bare descriptions, as in ShareGPT's format and many sets of calls, are wrapped under ``function``.
    """
    tools = _parse_json(value, "tools") if isinstance(value, str) and value.strip() else value
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidRecord("tools must be a list of objects.")
    return tuple({"type": "function", "function": tool} if "name" in tool and "function" not in tool else tool for tool in tools)


def with_calls(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[Message, ...]:
    """Return ``messages`` with the answers that are JSON calls of ``tools``, and nothing else, as tool calls.

    A call may have ``parameters`` instead of ``arguments``. Without ``tools``, any function counts if other turns have calls.
    """
    names = {tool.get("function", tool).get("name") for tool in tools}
    if not names and not any("tool_calls" in turn.extra for turn in messages):
        return tuple(messages)
    return tuple(_with_calls(turn, names) if turn.role == "assistant" else turn for turn in messages)


def _with_calls(turn: Message, names: Set[Any]) -> Message:
    if "tool_calls" in turn.extra or not turn.content.lstrip().startswith(("{", "[")):
        return turn
    try:
        calls = _tool_calls(loads(turn.content), 0)
    except (ValueError, InvalidRecord):
        return turn
    if not calls or (names and any(call["function"]["name"] not in names for call in calls)):
        return turn
    return replace(turn, content="", extra={"tool_calls": calls, **turn.extra})


def check_answered(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return ``messages`` if they are in a valid order and end with an assistant turn."""
    if messages[-1].role != "assistant":
        raise InvalidRecord("there is no assistant turn at the end, so there is nothing to train on.", kind="no-answer")
    _check_order(messages)
    if not any(message.role == "assistant" and message.trained for message in messages):
        raise InvalidRecord("every assistant turn has a weight of 0, so there is nothing to train on.", kind="no-answer")
    return messages


def check_prompt(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return ``messages`` if they are in a valid order and end with a turn to answer."""
    if messages[-1].role not in ("user", "tool"):
        raise InvalidRecord(f"the prompt ends with the {messages[-1].role}'s turn.", kind="role-order")
    _check_order(messages)
    return messages


def _check_order(messages: Sequence[Message]) -> None:
    """Reject two user or assistant turns in a row, empty assistant turns, and conversations without a user turn."""
    for before, after in itertools.pairwise(messages):
        if before.role == after.role and before.role in ("assistant", "user"):
            raise InvalidRecord(f"there are two {before.role} turns in a row.", kind="role-order")
    if any(turn.role == "assistant" and not turn.content.strip() and "tool_calls" not in turn.extra for turn in messages):
        raise InvalidRecord("an assistant turn is empty.", kind="empty-target")
    if not any(message.role == "user" for message in messages):
        raise InvalidRecord("there is no user turn.", kind="role-order")


def answer_text(message: Message, key: str) -> str:
    """Return the text of an answer to compare, with its reasoning: a non-empty assistant turn without tool calls."""
    if message.role != "assistant":
        raise InvalidRecord(f"{key} ends with the {message.role}'s turn.", kind="no-answer")
    if "tool_calls" in message.extra:
        raise InvalidRecord(f"{key} calls a tool, but it must be text.")
    if not message.content.strip():
        raise InvalidRecord(f"{key} must be a non-empty answer.", kind="empty-target")
    return join_reasoning(message.extra.get(REASONING, ""), message.content)


def single_answer(record: Record, key: str) -> str:
    turns = turns_or_text(record, key, "assistant")
    if len(turns) != 1:
        raise InvalidRecord(f"{key} must be one assistant turn, not {describe_turns(turns)}.")
    return answer_text(turns[0], key)


def describe_turns(messages: Sequence[Message]) -> str:
    return f"one {messages[0].role} turn" if len(messages) == 1 else plural(len(messages), "turn")
