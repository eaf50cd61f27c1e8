"""What the keys of each format mean: a record as a row. Each reader raises ``Refusal`` with the reason and the way to mend it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlxtune.core.text import plural
from mlxtune.data import turns
from mlxtune.data.rows import Conversation, Message, Place, Preference, Row, Text, Unpaired
from mlxtune.data.turns import Refusal

Record = Mapping[str, Any]

ASKED = ("prompt", "question", "instruction", "query", "problem", "input", "user")  # what people call the column that asks
_LABELS = {"true": True, "1": True, "false": False, "0": False}


def _chat(record: Record, place: Place) -> Conversation:
    messages = _with_system(turns.turns(record.get("messages"), "messages"), record)
    return Conversation(place, _meta(record, "messages", "tools", "system"), _answered(messages), turns.tools(record.get("tools")))


def _completion(record: Record, place: Place) -> Conversation:
    messages = _with_system((*_prompt(record, "prompt"), *_turns_or(record, "completion", "assistant")), record)
    tools = turns.tools(record.get("tools"))
    return Conversation(place, _meta(record, "prompt", "completion", "tools", "system"), _answered(messages), tools)


def _text(record: Record, place: Place) -> Text:
    return Text(place, _meta(record, "text"), _full(record, "text"))


def _alpaca(record: Record, place: Place) -> Conversation:
    messages = [
        *_history(record.get("history")),
        Message("user", _instruction(record)),
        Message("assistant", _full(record, "output")),
    ]
    meta = _meta(record, "instruction", "input", "output", "history", "system")
    return Conversation(place, meta, _answered(_with_system(messages, record)))


def _sharegpt(record: Record, place: Place) -> Conversation:
    messages = _with_system(turns.turns(record.get("conversations"), "conversations"), record)
    return Conversation(place, _meta(record, "conversations", "tools", "system"), _answered(messages), _bare_tools(record))


def _preference(record: Record, place: Place) -> Preference:
    source = next((key for key in ("prompt", "conversations", "messages", "instruction") if record.get(key) is not None), None)
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if source is None and isinstance(chosen, str) and isinstance(rejected, str):
        asked, chosen, rejected = _implicit(record, chosen, rejected)
        given: Sequence[Message] = (Message("user", asked),)
    else:
        given = () if source is None else _prompt(record, source)
    pair = {"chosen": chosen, "rejected": rejected}
    better, worse = _turns_or(pair, "chosen", "assistant"), _turns_or(pair, "rejected", "assistant")
    if better == worse:
        raise Refusal("chosen and rejected are the same.", "Remove the row, or write a worse answer.")
    begins = turns.shared(better, worse)
    prompt = _agreed(given, better[:begins])
    if len(better) != begins + 1 or len(worse) != begins + 1:
        raise Refusal(
            f"chosen and rejected part after {plural(begins, 'shared turn')}, and then chosen has {turns.told(better[begins:])} and rejected "
            f"{turns.told(worse[begins:])}, not one answer each.",
            "End both with the first answer in which they differ.",
        )
    good, bad = turns.answer(better[-1], "chosen"), turns.answer(worse[-1], "rejected")
    if good == bad:
        raise Refusal("chosen and rejected are the same.", "Remove the row, or write a worse answer.")
    taken = ("instruction", "input") if source == "instruction" else (source or "",)
    tools = _bare_tools(record) if source == "conversations" else turns.tools(record.get("tools"))
    meta = _meta(record, "chosen", "rejected", "tools", "system", *taken)
    return Preference(place, meta, _asked(_with_system(prompt, record)), good, bad, tools)


def _openai(record: Record, place: Place) -> Preference:
    given = record.get("input")
    if not isinstance(given, dict):
        raise Refusal("input must be an object with messages.", 'Write it as {"messages": […], "tools": […]}.')
    prompt = _asked(turns.turns(given.get("messages"), "input.messages"))
    good, bad = _only(record, "preferred_output"), _only(record, "non_preferred_output")
    if good == bad:
        raise Refusal("preferred_output and non_preferred_output are the same.", "Remove the row, or write a worse answer.")
    rest = {key: value for key, value in given.items() if key not in ("messages", "tools")}
    meta = {**rest, **_meta(record, "input", "preferred_output", "non_preferred_output")}
    return Preference(place, meta, prompt, good, bad, turns.tools(given.get("tools")))


def _unpaired(record: Record, place: Place) -> Unpaired:
    label = _label(record.get("label"))
    if label is None:
        raise Refusal("label must be true or false.", "Say whether the completion is a wanted one.")
    said = _only(record, "completion")
    prompt = _asked(_with_system(_prompt(record, "prompt"), record))
    return Unpaired(place, _meta(record, "prompt", "completion", "label", "system"), prompt, said, label)


def _transcript(record: Record, place: Place) -> Row:
    """The same row with its transcripts as turns."""
    if "chosen" in record and "rejected" in record:
        pair = {key: _transcribed(record, key) for key in ("chosen", "rejected")}
        return _preference({**{key: value for key, value in record.items() if key != "prompt"}, **pair}, place)
    if "completion" in record:
        *asked, last = _transcribed(record, "completion")
        divided = {**record, "prompt": asked, "completion": [last]}
        return _unpaired(divided, place) if says_label(record) else _completion(divided, place)
    rest = {key: value for key, value in record.items() if key != "text"}
    return _chat({**rest, "messages": _transcribed(record, "text")}, place)


READERS: dict[str, Callable[[Record, Place], Row]] = {
    "chat": _chat,
    "completion": _completion,
    "text": _text,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "preference": _preference,
    "openai-preference": _openai,
    "unpaired": _unpaired,
    "transcript": _transcript,
}


def whole(record: Record, key: str) -> Any:
    """The text under ``key`` behind the prompt, where both are text: a transcript may be divided between them."""
    prompt, said = record.get("prompt"), record.get(key)
    if isinstance(prompt, str) and isinstance(said, str):
        return said if said.startswith(prompt) else prompt + said
    return said


def _transcribed(record: Record, key: str) -> list[dict[str, str]]:
    found = turns.transcript(text) if isinstance(text := whole(record, key), str) else []
    if not any(turn["role"] == "assistant" for turn in found):
        raise Refusal(
            f"{key} is no transcript with an assistant's turn.", "Write it as Human: … and, two line ends on, Assistant: …"
        )
    return found


def _full(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Refusal(f"{key} must be text that is not empty.", "Write it, or remove the row.")
    return value


def _turns_or(record: Record, key: str, role: str) -> tuple[Message, ...]:
    """``key`` as turns: text is one turn of ``role``."""
    value = record.get(key)
    if isinstance(value, list):
        return turns.turns(value, key)
    if isinstance(value, dict):
        return turns.turns([value], key)
    if not isinstance(value, str) or not value.strip():
        raise Refusal(f"{key} must be text that is not empty, or a list of turns.", "Write it, or remove the row.")
    return (Message(role, value),)


def _only(record: Record, key: str) -> str:
    said = _turns_or(record, key, "assistant")
    if len(said) != 1:
        raise Refusal(f"{key} must be one assistant turn, not {turns.told(said)}.", "Keep the one that answers.")
    return turns.answer(said[0], key)


def _prompt(record: Record, key: str) -> tuple[Message, ...]:
    return (Message("user", _instruction(record)),) if key == "instruction" else _turns_or(record, key, "user")


def _instruction(record: Record) -> str:
    more = record.get("input")
    if more is not None and not isinstance(more, str):
        raise Refusal("input must be text.", "Write it out, or leave it empty.")
    return "\n".join([_full(record, "instruction"), *([more] if more and more.strip() else [])])


def _history(value: Any) -> list[Message]:
    pairs = value or []
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs
    ):
        raise Refusal("history must be a list of [question, answer].", "Correct it, or remove it.")
    return [Message(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


def _with_system(messages: Sequence[Message], record: Record) -> tuple[Message, ...]:
    """``messages`` behind the record's own system prompt, if it has one and they have none."""
    system = record.get("system")
    if system is None or (isinstance(system, str) and not system.strip()):
        return tuple(messages)
    if not isinstance(system, str):
        raise Refusal("system must be text.", "Write it out, or remove it.")
    if messages[0].role == "system":
        if messages[0].content.strip() == system.strip():
            return tuple(messages)
        raise Refusal("system says something else than the system turn.", "Keep one of them.")
    return (Message("system", system), *messages)


def _bare_tools(record: Record) -> tuple[dict[str, Any], ...]:
    """ShareGPT describes a function alone; templates take it as the API does, under ``function``."""
    return tuple(
        {"type": "function", "function": tool} if "name" in tool and "function" not in tool else tool
        for tool in turns.tools(record.get("tools"))
    )


def _answered(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if messages[-1].role != "assistant":
        raise Refusal("no assistant turn at the end, so there is nothing to train.", "Add the answer, or remove the row.")
    turns.check_order(messages)
    return messages


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if messages[-1].role not in ("user", "tool"):
        raise Refusal(
            f"the last turn of the prompt is the {messages[-1].role}'s, so nothing is asked.", "End it with the user's turn."
        )
    turns.check_order(messages)
    return messages


def _agreed(given: Sequence[Message], begun: Sequence[Message]) -> Sequence[Message]:
    """The prompt: ``given`` beside the answers, or ``begun`` in both of them. Where it stands twice, it must be the same."""
    if not given and not begun:
        raise Refusal(
            "there is no prompt, and chosen and rejected share no turn.", "Add the prompt, as text or as a list of turns."
        )
    if not given or not begun:
        return given or begun
    plain = [[(turn.role, turn.content.strip()) for turn in one if turn.role != "system"] for one in (given, begun)]
    systems = {turn.content.strip() for turn in (*given, *begun) if turn.role == "system"}
    if plain[0] != plain[1] or len(systems) > 1:
        raise Refusal("prompt is not what chosen and rejected begin with.", "Make them agree, or remove prompt.")
    return max(given, begun, key=len)


def _implicit(record: Record, chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt that two texts share, and what is left of them; a word is never divided (TRL's ``extract_prompt``, which may)."""
    if named := next((key for key in ASKED if isinstance(record.get(key), str)), None):
        raise Refusal("there is no prompt.", f"Say which column it is: --map prompt={named}, or data.map in a recipe.")
    length = min(len(chosen), len(rejected))
    begin = chosen[: next((at for at in range(length) if chosen[at] != rejected[at]), length)]
    at = max(begin.rfind(" "), begin.rfind("\n"))
    if at < 0 or not begin[:at].strip():
        raise Refusal("there is no prompt, and chosen and rejected share no beginning.", "Add the prompt.")
    return begin[:at], chosen[at:], rejected[at:]


def says_label(record: Record) -> bool:
    """Whether ``label`` is a verdict and not a class of the user's own: true or false, also as a word. Numbers may be either."""
    label = record.get("label")
    return isinstance(label, bool) or (isinstance(label, str) and label.strip().lower() in ("true", "false"))


def _label(value: Any) -> bool | None:
    return _LABELS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None


def _meta(record: Record, *taken: str) -> dict[str, Any]:
    own = record.get("meta")
    rest = {key: value for key, value in record.items() if key not in (*taken, "meta")}
    return {**rest, **own} if isinstance(own, dict) else rest
