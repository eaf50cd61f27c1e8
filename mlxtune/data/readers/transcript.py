"""Transcripts: chats in one text, rendered with a chat template (ChatML, Llama, Mistral, Gemma, Phi, Zephyr), or transcripts of ``Human: …``."""

import re
from typing import Any

from mlxtune.data.readers import chat, completion, preference
from mlxtune.data.readers.row_format import InvalidRecord, Record, RowFormat
from mlxtune.data.rows import Location, Row

_HEADERS = (  # of a turn, by kind of chat
    r"<\|im_start\|>(\w+)(?:\n|<\|im_sep\|>)",
    r"<\|start_header_id\|>(\w+)<\|end_header_id\|>",
    r"<start_of_turn>(\w+)\n",
    r"<\|(system|user|assistant|ai)\|>",
    r"<\|start\|>(\w+)(?:<\|channel\|>final)?<\|message\|>",
    r"<\|START_OF_TURN_TOKEN\|><\|(\w+)_TOKEN\|>",
    r"<｜(User|Assistant)｜>",
    r"(?m:^)\s*(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE): ",
    r"### (System|Human|User|Assistant|Instruction|Response):",
    r"\[(/?INST)\]",
    r"(?:\s|</s>)(USER|ASSISTANT):",
)
_ROLES = {
    "human": "user", "inst": "user", "instruction": "user", "/inst": "assistant", "model": "assistant", "response": "assistant",
    "ai": "assistant", "chatbot": "assistant", "function response": "tool",
}  # fmt: skip
_PREAMBLES = ("Below is an instruction that describes a task", "A chat between a ")  # of the templates of Alpaca and Vicuna
_BEGINNING = r"\s*(?:<s>|<bos>|<BOS_TOKEN>|<\|begin_of_text\|>|<\|endoftext\|>|<｜begin▁of▁sentence｜>)?\s*"
_START = re.compile(f"{_BEGINNING}(?:(?:{'|'.join(_PREAMBLES)})[^#]*?)?(?:{'|'.join(_HEADERS)})")
_END = re.compile(
    r"(?:\s|<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|</?s>|<\|endoftext\|>|<\|end_of_text\|>|<eos>|<\|eo[sd]\|>|<\|return\|>|<\|END_OF_TURN_TOKEN\|>|<｜end▁of▁sentence｜>)+\Z"
)
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)  # in Llama 2's first user turn
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


def is_chat_text(value: Any) -> bool:
    """Return whether ``value`` is a text that begins with a turn and has an answer."""
    if not isinstance(value, str):
        return False
    is_transcript = value.lstrip().startswith("Human:") and "\n\nAssistant:" in value
    return is_transcript or bool(_START.match(value) and _rendered_turns(value))


def chat_text_turns(text: str) -> list[dict[str, str]]:
    """Split a chat into turns. Text before a transcript's first turn is the system prompt."""
    if turns := _rendered_turns(text):
        return turns
    head, *parts = _SPEAKER.split("\n\n" + text.lstrip())
    system = [{"role": "system", "content": head.strip()}] if head.strip() else []
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [*system, *({"role": roles[speaker], "content": content.strip()} for speaker, content in pairs)]


def _rendered_turns(text: str) -> list[dict[str, str]]:
    """Return the turns of a rendered chat that has an answer, without an empty one at its end; none for any other text."""
    for header in _HEADERS:
        head, *parts = re.split(header, text)
        preamble = head.strip() if head.lstrip().startswith(_PREAMBLES) else ""
        if not parts or not (preamble or re.fullmatch(_BEGINNING, head)):
            continue
        names = [name.lower() for name in parts[::2]]
        contents = [_END.sub("", content).strip() for content in parts[1::2]]
        turns = [{"role": _ROLES.get(name, name), "content": content} for name, content in zip(names, contents, strict=True)]
        turns = [*([{"role": "system", "content": preamble}] if preamble else []), *turns]
        if system := _SYSTEM.match(turns[0]["content"]):
            turns[0]["content"] = turns[0]["content"][system.end() :].strip()
            turns.insert(0, {"role": "system", "content": system[1].strip()})
        turns = turns[: -1 if turns[-1] == {"role": "assistant", "content": ""} else None]
        roles = {turn["role"] for turn in turns}
        return turns if "assistant" in roles and roles <= {"system", "user", "assistant", "tool"} else []
    return []


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
