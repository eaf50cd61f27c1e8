"""Rows as tool-call sets have them: JSON in strings, calls as answers, bare tools, and rendered chats."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.readers.columns import guess_mapping
from mlxtune.data.readers.formats import detect, parse
from mlxtune.data.rows import Location, Message, Row, TextRow

LOCATION = Location(Path("x.jsonl"), 4)
CALL = {"name": "lock", "arguments": {"door": "back"}}
TOOL = {"name": "lock", "parameters": {"type": "object", "properties": {"door": {"type": "string"}}}}
WRAPPED = {"type": "function", "function": TOOL}
ASKED = {"role": "user", "content": "Lock it."}
Q, CALLED = Message("user", "Lock it."), Message("assistant", "", {"tool_calls": [{"type": "function", "function": CALL}]})


def read(record: dict[str, Any]) -> Row:
    return parse(record, LOCATION, mapping=guess_mapping(record) if detect(record) is None else {})


@pytest.mark.parametrize("key", ["messages", "conversations", "prompt"])
def test_a_conversation_may_be_a_json_string(key: str) -> None:
    earlier = [ASKED, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}]
    turns = [*earlier, ASKED, {"role": "assistant", "content": "Done."}]
    record = {key: json.dumps(turns)} if key != "prompt" else {"prompt": json.dumps(turns[:-1]), "completion": "Done."}
    row = read(record)
    assert [(turn.role, turn.content) for turn in row.messages[2:]] == [("user", "Lock it."), ("assistant", "Done.")]
    assert row.messages[1].extra == CALLED.extra


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), [WRAPPED]])
@pytest.mark.parametrize("arguments", ["arguments", "parameters"])
@pytest.mark.parametrize("wrap", [lambda one: one, json.dumps, lambda one: [one], lambda one: json.dumps([one])])
def test_an_answer_that_calls_a_declared_tool_is_a_call(tools: Any, arguments: str, wrap: Any) -> None:
    answer = wrap({"name": "lock", arguments: {"door": "back"}})
    row = read({"question": json.dumps([ASKED]), "answer": answer, "tools": tools})
    assert (row.messages, row.tools) == ((Q, CALLED), (WRAPPED,))
    assert row.reference == json.dumps(CALL)


def test_other_answers_remain_text() -> None:
    for answer, tools in (('{"name": "open", "arguments": {}}', [TOOL]), ('{"name": "lock", "arguments": {}} now', [TOOL])):
        row = read({"prompt": "Lock it.", "completion": answer, "tools": tools})
        assert row.messages[-1] == Message("assistant", answer)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"name": "sum", "parameters": {"category": "é"}}, '{"name": "sum", "parameters": {"category": "é"}}'),
        ([{"a": 1}], '[{"a": 1}]'),
        (3, "3"),
    ],
)
@pytest.mark.parametrize("keys", [("question", "answer"), ("prompt", "completion"), ("instruction", "output")])
def test_an_answer_that_is_not_text_is_serialized_whole(value: Any, text: str, keys: tuple[str, str]) -> None:
    record = {keys[0]: "Lock it.", keys[1]: value}
    row = read(record)
    assert row.messages == (Q, Message("assistant", text))


def test_the_last_turn_may_be_in_another_column() -> None:
    for answer in ("answer", "response"):
        record = {"messages": json.dumps([ASKED]), answer: "Done.", "id": 7}
        mapping = guess_mapping(record)
        assert mapping == {"prompt": "messages", "completion": answer}
        row = parse(record, LOCATION, mapping=mapping)
        assert (row.messages, row.meta) == ((Q, Message("assistant", "Done.")), {"id": 7})
    for key in ("prompt", "input"):
        assert guess_mapping({key: [ASKED], "response": "Done."}) == {"prompt": key, "completion": "response"}


CHATS = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nLock it.<|im_end|>\n<|im_start|>assistant\nDone.<|im_end|>\n",
    "llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>"
    "\n\nLock it.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nDone.<|eot_id|>",
    "llama 2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nLock it. [/INST] Done. </s>",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nLock it.</s>\n<|assistant|>\nDone.</s>",
    "opengpt": "<|user|> Lock it. <|eos|> <|ai|> Done. <|eos|> <|eod|>",
    "phi": "<|system|>\nBe brief.<|end|>\n<|user|>\nLock it.<|end|>\n<|assistant|>\nDone.<|end|>\n<|endoftext|>",
    "gemma": "<bos><start_of_turn>user\nLock it.<end_of_turn>\n<start_of_turn>model\nDone.<end_of_turn>\n",
    "human": "Be brief.\n\nHuman: Lock it.\n\nAssistant: Done.",
    "guanaco": "### System: Be brief.### Human: Lock it.### Assistant: Done.",
    "vicuna": "A chat between a person and an assistant. USER: Lock it. ASSISTANT: Done.</s>",
}


@pytest.mark.parametrize("text", CHATS.values(), ids=CHATS)
def test_a_rendered_chat_is_read_as_turns(text: str) -> None:
    if text.startswith("Be"):
        text = text.removeprefix("Be brief.\n\n")
    row = parse({"text": text}, LOCATION)
    assert [turn for turn in row.messages if not turn.is_system] == [Q, Message("assistant", "Done.")]
    assert all(
        turn.content in ("Be brief.", "A chat between a person and an assistant.") for turn in row.messages if turn.is_system
    )


def test_text_about_a_rendered_chat_remains_text() -> None:
    for text in (
        "ChatML begins with <|im_start|>user\nHi<|im_end|>",
        "<|im_start|>user\nHi<|im_end|>",
        "<|im_start|>bot\nHi<|im_end|>",
        "A chat between a clerk and a USER: it was short.",
    ):
        assert isinstance(parse({"text": text}, LOCATION), TextRow)
