from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import DataError
from mlxtune.data.formats import FORMATS, detect, parse
from mlxtune.data.rows import Conversation, Message, Place, Preference, Text

PLACE = Place(Path("x.jsonl"), 4)
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def test_chat_keeps_turns_tools_and_meta():
    tool = {"type": "function", "function": {"name": "f"}}
    row = parse(
        {"messages": [{"role": "system", "content": "s"}, USER, ANSWER], "tools": [tool], "meta": {"k": 1}, "source": "z"}, PLACE
    )
    assert row == Conversation(
        PLACE, {"source": "z", "k": 1}, (Message("system", "s"), Message("user", "q"), Message("assistant", "a")), (tool,)
    )


def test_completion_becomes_a_conversation():
    row = parse({"prompt": "q", "completion": "a"}, PLACE)
    assert row == Conversation(PLACE, {}, (Message("user", "q"), Message("assistant", "a")))


def test_text_is_kept_whole():
    assert parse({"text": " a\nb ", "id": 3}, PLACE) == Text(PLACE, {"id": 3}, " a\nb ")


@pytest.mark.parametrize("wrap", [lambda answer: answer, lambda answer: [{"role": "assistant", "content": answer}]])
@pytest.mark.parametrize("prompt", ["q", [USER]])
def test_preference_takes_text_or_turns(prompt, wrap):
    row = parse({"prompt": prompt, "chosen": wrap("good"), "rejected": wrap("bad")}, PLACE)
    assert row == Preference(PLACE, {}, (Message("user", "q"),), "good", "bad")


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = parse({"messages": [{"role": "user", "content": parts}, ANSWER]}, PLACE)
    assert isinstance(row, Conversation)
    assert row.messages[0].content == "ab"


def test_tool_calls_may_stand_without_content():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    result = {"role": "tool", "content": "5", "name": "f", "tool_call_id": "1"}
    row = parse({"messages": [USER, call, result, ANSWER]}, PLACE)
    assert isinstance(row, Conversation)
    assert row.messages[1].content == ""
    assert row.messages[1].extra["tool_calls"] == call["tool_calls"]
    assert row.messages[2].extra == {"name": "f", "tool_call_id": "1"}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([1], "must be a JSON object, not list"),
        ({"a": 1, "b": 2}, "no known format has these keys: a, b"),
        ({}, "no keys"),
        ({"messages": []}, "list of turns that is not empty"),
        ({"messages": "hi"}, "list of turns that is not empty"),
        ({"messages": ["hi"]}, "turn 1 must be an object"),
        ({"messages": [USER]}, "no assistant turn at the end"),
        ({"messages": [ANSWER]}, "no user turn"),
        ({"messages": [USER, ANSWER, USER]}, "no assistant turn at the end"),
        ({"messages": [USER, USER, ANSWER]}, "two user turns in a row"),
        ({"messages": [USER, ANSWER, ANSWER]}, "two assistant turns in a row"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "assistant turn is empty"),
        ({"messages": [{"role": "human", "content": "q"}, ANSWER]}, "turn 1 has the role human"),
        ({"messages": [{"role": ["user"], "content": "q"}, ANSWER]}, "turn 1 has the role"),
        ({"messages": [{"role": "user", "content": 5}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user"}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [USER, ANSWER], "tools": 5}, "tools must be a list of objects"),
        ({"messages": [USER, ANSWER], "tools": "abc"}, "tools must be a list of objects"),
        ({"messages": [USER, ANSWER], "tools": [1]}, "tools must be a list of objects"),
        ({"prompt": "q", "completion": ""}, "completion must be text that is not empty"),
        ({"prompt": 3, "completion": "a"}, "prompt must be text that is not empty"),
        ({"text": "  "}, "text must be text that is not empty"),
        ({"text": None}, "text must be text that is not empty"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "q", "chosen": "", "rejected": "a"}, "chosen must be an answer"),
        ({"prompt": "q", "chosen": "a", "rejected": [ANSWER, ANSWER]}, "rejected must be an answer"),
        ({"chosen": "a", "rejected": "b"}, "prompt must be a list of turns"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt must be text that is not empty"),
    ],
)  # fmt: skip
def test_bad_row_is_refused_with_its_place_and_the_reason(record, words):
    with pytest.raises(DataError) as caught:
        parse(record, PLACE)
    assert str(caught.value).startswith("x.jsonl, line 4: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("where", ["user", "assistant"])
def test_half_a_surrogate_pair_is_refused_since_no_tokenizer_takes_it(where):
    turns = [USER, ANSWER]
    turns = [{**turn, "content": "\ud83d"} if turn["role"] == where else turn for turn in turns]
    with pytest.raises(DataError, match="line 4"):
        parse({"messages": turns}, PLACE)


@pytest.mark.parametrize("format", FORMATS)
def test_format_that_was_asked_for_is_not_guessed(format):
    with pytest.raises(DataError, match="line 4"):
        parse({"nothing": 1}, PLACE, format)
    assert parse({"text": "t", "messages": [USER, ANSWER]}, PLACE, "text") == Text(PLACE, {"messages": [USER, ANSWER]}, "t")


def test_detection_goes_by_keys():
    assert detect({"prompt": 1, "chosen": 1, "rejected": 1}) == "preference"
    assert detect({"messages": 1, "text": 1}) == "chat"
    assert detect({"prompt": 1, "completion": 1}) == "completion"
    assert detect({"prompt": 1}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "name"]) | st.text(max_size=3), inner, max_size=4
        )
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["messages", "prompt", "completion", "text", "chosen", "rejected", "tools", "meta", "other"])


@given(st.dictionaries(KEYS, JSON, max_size=5) | JSON, st.sampled_from(["auto", *FORMATS]))
def test_any_json_is_a_row_or_a_data_error(record: Any, format: str):
    try:
        row = parse(record, PLACE, format)
    except DataError as error:
        told = str(error)
    else:
        told = ""
        assert len(row.hash) == 64
        assert row.question is not None
    assert not told or "line 4" in told
