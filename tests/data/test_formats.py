from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import DataError
from mlxtune.data.formats import FORMATS, KEYS, columns, detect, parse
from mlxtune.data.rows import Conversation, Message, Place, Preference, RowError, Text, Unpaired
from mlxtune.recipe.load import dump
from mlxtune.recipe.load import parse as parse_recipe
from mlxtune.recipe.schema import DataSection

PLACE = Place(Path("x.jsonl"), 4)
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM, OTHER = {"role": "system", "content": "s"}, {"role": "assistant", "content": "b"}
Q, A = Message("user", "q"), Message("assistant", "a")


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}],
        **more,
    }


# chat


def test_chat_keeps_turns_tools_and_meta():
    tool = {"type": "function", "function": {"name": "f"}}
    row = parse({"messages": [SYSTEM, USER, ANSWER], "tools": [tool], "meta": {"k": 1}, "source": "z"}, PLACE)
    assert row == Conversation(PLACE, {"source": "z", "k": 1}, (Message("system", "s"), Q, A), (tool,))


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = parse({"messages": [{"role": "user", "content": parts}, ANSWER]}, PLACE)
    assert isinstance(row, Conversation)
    assert row.messages[0].content == "ab"


def test_arguments_of_a_call_are_an_object_whether_they_came_as_one_or_as_a_string():
    result = {"role": "tool", "content": "5", "name": "f", "tool_call_id": "1"}
    one, two = (parse({"messages": [USER, call(given), result, ANSWER]}, PLACE) for given in ('{"x": [1, "é"]}', {"x": [1, "é"]}))
    assert isinstance(one, Conversation)
    assert one.messages[1] == Message(
        "assistant", "", {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": [1, "é"]}}}]}
    )
    assert one.messages[2].extra == {"name": "f", "tool_call_id": "1"}
    assert one.hash == two.hash


def test_call_of_the_older_kind_becomes_a_tool_call():
    turns = [USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}]
    row = parse({"messages": [*turns, {"role": "function", "name": "f", "content": "5"}, ANSWER]}, PLACE)
    assert isinstance(row, Conversation)
    assert row.messages[1].extra == {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
    assert row.messages[2] == Message("tool", "5", {"name": "f"})


def test_thoughts_beside_an_answer_are_kept_for_the_template():
    row = parse({"messages": [USER, {**ANSWER, "reasoning_content": "hm", "refusal": None}]}, PLACE)
    assert isinstance(row, Conversation)
    assert row.messages[1].as_dict() == {**ANSWER, "reasoning_content": "hm"}


# completion, text, alpaca


@pytest.mark.parametrize("prompt", ["q", [USER]])
@pytest.mark.parametrize("completion", ["a", [ANSWER]])
def test_completion_becomes_a_conversation(prompt, completion):
    assert parse({"prompt": prompt, "completion": completion}, PLACE) == Conversation(PLACE, {}, (Q, A))


def test_text_is_kept_whole():
    assert parse({"text": " a\nb ", "id": 3}, PLACE) == Text(PLACE, {"id": 3}, " a\nb ")


def test_alpaca_joins_instruction_and_input_behind_system_and_history():
    record = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["q", "a"]], "id": 1}
    row = parse(record, PLACE)
    assert row == Conversation(
        PLACE, {"id": 1}, (Message("system", "s"), Q, A, Message("user", "Add.\n1 2"), Message("assistant", "3"))
    )
    plain = parse({"instruction": "q", "input": "", "output": "a", "system": ""}, PLACE)
    assert plain == Conversation(PLACE, {}, (Q, A))
    assert plain.hash == parse({"prompt": "q", "completion": "a"}, PLACE).hash


# sharegpt


def test_sharegpt_names_become_roles():
    said = [("system", "s"), ("human", "q"), ("gpt", "a"), ("user", "r"), ("chatgpt", "b"), ("human", "t"), ("bing", "c"), ("human", "u"), ("bard", "d")]  # fmt: skip
    row = parse({"conversations": [{"from": name, "value": text} for name, text in said]}, PLACE)
    assert isinstance(row, Conversation)
    assert [turn.role for turn in row.messages] == ["system", *["user", "assistant"] * 4]
    assert [turn.content for turn in row.messages] == [text for _, text in said]


@pytest.mark.parametrize("name", ["observation", "tool", "function"])
def test_sharegpt_calls_and_observations_become_tool_turns(name):
    tools = [{"name": "f", "parameters": {}}]
    turns = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": name, "value": "[5]"},
        {"from": "gpt", "value": "a"},
    ]
    row = parse({"conversations": turns, "tools": json.dumps(tools), "system": "s"}, PLACE)
    made = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    turned = (Message("system", "s"), Q, Message("assistant", "", {"tool_calls": made}), Message("tool", "[5]"), A)
    assert row == Conversation(PLACE, {}, turned, ({"type": "function", "function": tools[0]},))


# preference


@pytest.mark.parametrize("wrap", [lambda answer: answer, lambda answer: [{"role": "assistant", "content": answer}], lambda answer: {"from": "gpt", "value": answer}])  # fmt: skip
@pytest.mark.parametrize("prompt", [{"prompt": "q"}, {"prompt": [USER]}, {"conversations": [{"from": "human", "value": "q"}]}, {"instruction": "q", "input": ""}])  # fmt: skip
def test_preference_takes_text_or_turns(prompt, wrap):
    row = parse({**prompt, "chosen": wrap("good"), "rejected": wrap("bad")}, PLACE)
    assert row == Preference(PLACE, {}, (Q,), "good", "bad")


@pytest.mark.parametrize("prompt", [{}, {"prompt": "q"}, {"prompt": [USER]}, {"prompt": [SYSTEM, USER]}])
def test_shared_turns_are_the_prompt(prompt):
    row = parse({**prompt, "chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, OTHER]}, PLACE)
    assert row == Preference(PLACE, {}, (Message("system", "s"), Q), "a", "b")


def test_shared_beginning_of_two_texts_is_the_prompt_and_ends_with_a_word():
    sky = {"chosen": "The sky is blue.", "rejected": "The sky is green."}  # TRL's own example
    assert parse(sky, PLACE) == Preference(PLACE, {}, (Message("user", "The sky is"),), " blue.", " green.")
    near = parse({"chosen": "The sky is blue.", "rejected": "The sky is black."}, PLACE)
    assert near == Preference(PLACE, {}, (Message("user", "The sky is"),), " blue.", " black.")


def test_tools_of_a_pair_are_part_of_it():
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert parse({**pair, "tools": [{"name": "f"}]}, PLACE).hash != parse(pair, PLACE).hash


def test_openai_preference_is_a_pair():
    record = {
        "input": {"messages": [SYSTEM, USER], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [ANSWER],
        "non_preferred_output": [OTHER],
    }
    assert parse(record, PLACE) == Preference(PLACE, {"parallel_tool_calls": True}, (Message("system", "s"), Q), "a", "b")


@pytest.mark.parametrize("label", [True, "true", "True"])
@pytest.mark.parametrize("wrap", [str, lambda text: [{"role": "assistant", "content": text}]])
def test_labelled_completion_is_unpaired(wrap, label):
    row = parse({"prompt": "q", "completion": wrap("a"), "label": label}, PLACE)
    assert row == Unpaired(PLACE, {}, (Q,), "a", True)
    assert parse({"prompt": "q", "completion": "a", "label": False}, PLACE).hash != row.hash
    assert parse({"prompt": "q", "completion": "a", "label": 0}, PLACE, "unpaired") == Unpaired(PLACE, {}, (Q,), "a", False)


def test_other_labels_are_metadata():
    assert parse({"prompt": "q", "completion": "a", "label": "spam"}, PLACE) == Conversation(PLACE, {"label": "spam"}, (Q, A))


# transcripts


def test_transcripts_of_a_pair_part_in_their_last_turn():
    begin = "\n\nHuman: q\n\nAssistant: a\n\nHuman: and\nthen?\n\nAssistant:"
    row = parse({"chosen": f"{begin} yes", "rejected": f"{begin} no"}, PLACE)
    assert row == Preference(PLACE, {}, (Q, A, Message("user", "and\nthen?")), "yes", "no")
    assert row == parse({"prompt": begin, "chosen": " yes", "rejected": " no"}, PLACE)
    assert row == parse({"prompt": begin, "chosen": f"{begin} yes", "rejected": f"{begin} no"}, PLACE)


def test_transcripts_alone_are_conversations():
    whole = "Human: q\n\nAssistant: a"
    assert parse({"text": whole}, PLACE) == Conversation(PLACE, {}, (Q, A))
    assert parse({"prompt": "\n\nHuman: q\n\nAssistant:", "completion": " a"}, PLACE) == Conversation(PLACE, {}, (Q, A))
    labelled = {"prompt": "\n\nHuman: q\n\nAssistant:", "completion": " a", "label": False}
    assert parse(labelled, PLACE) == Unpaired(PLACE, {}, (Q,), "a", False)
    assert parse({"text": whole}, PLACE, "text") == Text(PLACE, {}, whole)


# which format


EXAMPLES = {
    "chat": {"messages": [USER, ANSWER]},
    "completion": {"prompt": "q", "completion": "a"},
    "text": {"text": "t"},
    "alpaca": {"instruction": "q", "output": "a"},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "preference": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "transcript": {"text": "\n\nHuman: q\n\nAssistant: a"},
    "openai-preference": {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [OTHER]},
    "unpaired": {"prompt": "q", "completion": "a", "label": True},
}


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_is_detected_and_remembered(format):
    assert detect(EXAMPLES[format]) == format
    row = parse(EXAMPLES[format], PLACE)
    assert row.format == format
    assert row == parse(EXAMPLES[format], PLACE, format)
    assert "format" not in json.dumps(row.content)


@pytest.mark.parametrize("format", FORMATS)
def test_format_that_was_asked_for_is_not_guessed(format):
    with pytest.raises(DataError, match="line 4"):
        parse({"nothing": 1}, PLACE, format)
    assert parse({"text": "t", "messages": [USER, ANSWER]}, PLACE, "text") == Text(PLACE, {"messages": [USER, ANSWER]}, "t")


def test_one_conversation_has_one_hash_whatever_it_came_as():
    same = ("chat", "completion", "alpaca", "sharegpt", "transcript")
    assert len({parse(EXAMPLES[format], PLACE).hash for format in same}) == 1
    assert parse(EXAMPLES["preference"], PLACE).hash == parse(EXAMPLES["openai-preference"], PLACE).hash


def test_columns_by_other_names_are_mapped():
    record = {"question": "q", "answer": "a", "n": 1}
    assert parse(record, PLACE, mapping=columns("prompt=question, completion=answer")) == Conversation(PLACE, {"n": 1}, (Q, A))
    swapped = parse({"prompt": "a", "completion": "q"}, PLACE, mapping={"prompt": "completion", "completion": "prompt"})
    assert swapped == Conversation(PLACE, {}, (Q, A))
    with pytest.raises(RowError, match="it has no answer, which the map names"):
        parse({"question": "q"}, PLACE, mapping=columns("prompt=question,completion=answer"))


def test_recipe_may_name_every_format_and_map_columns():
    assert set(get_args(get_type_hints(DataSection)["format"])) == {"auto", *FORMATS}
    text = 'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d.csv"\nmap = { prompt = "question", completion = "answer" }\n'
    recipe = parse_recipe(text)
    assert recipe.data.map == columns("prompt=question,completion=answer")
    assert parse_recipe(dump(recipe)).data == dataclasses.replace(recipe.data, source=str(recipe.source))


@pytest.mark.parametrize(
    ("text", "words"),
    [("prompt", "not of the form"), ("=x", "not of the form"), ("promt=x", "names promt"), ("prompt=x,completion=x", "of its own")],
)
def test_map_that_means_nothing_is_refused(text, words):
    with pytest.raises(DataError, match=words) as caught:
        columns(text)
    assert caught.value.mend


# refusals


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
        ({"messages": [{"role": "user", "content": []}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user", "content": ["x", {"type": "image"}]}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user"}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}, "turn 2 has the weight 0"),
        ({"messages": [USER, call("{")]}, "arguments of f in turn 2 are not valid JSON"),
        ({"messages": [USER, call("5")]}, "must be an object"),
        ({"messages": [USER, call([1])]}, "must be an object"),
        ({"messages": [USER, call("[" * 100_000)]}, "are not valid JSON: it is nested deeper"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"function": {"arguments": {}}}]}]}, "calls a tool without a name"),
        ({"messages": [USER, {**ANSWER, "tool_calls": "f"}]}, "calls a tool without a name"),
        ({"messages": [USER, ANSWER], "tools": 5}, "tools must be a list of objects"),
        ({"messages": [USER, ANSWER], "tools": "abc"}, "tools are not valid JSON"),
        ({"messages": [USER, ANSWER], "tools": [1]}, "tools must be a list of objects"),
        ({"messages": [SYSTEM, USER, ANSWER], "system": "t"}, "system says something else"),
        ({"messages": [USER, ANSWER], "system": 5}, "system must be text"),
        ({"prompt": "q", "completion": ""}, "completion must be text that is not empty"),
        ({"prompt": 3, "completion": "a"}, "prompt must be text that is not empty"),
        ({"text": "  "}, "text must be text that is not empty"),
        ({"text": None}, "text must be text that is not empty"),
        ({"text": "Human: q\n\nAssistant: a\n\nHuman: r"}, "no assistant turn at the end"),
        ({"instruction": "q", "output": ["a", "b"]}, "output must be text"),
        ({"instruction": "q", "input": 5, "output": "a"}, "input must be text"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "history must be a list of"),
        ({"conversations": [{"from": "alien", "value": "q"}]}, "turn 1 is from alien"),
        ({"conversations": [{"from": ["human"], "value": "q"}]}, "turn 1 is from"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f()"}]}, "call of turn 2 are not valid"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "q", "chosen": "", "rejected": "a"}, "chosen must be text that is not empty"),
        ({"prompt": "q", "chosen": "a", "rejected": [ANSWER, ANSWER]}, "chosen has one assistant turn and rejected 2 turns"),
        ({"prompt": "q", "chosen": [USER], "rejected": [ANSWER]}, "the last turn of chosen is the user's"),
        ({"prompt": "q", "chosen": [call({})], "rejected": [ANSWER]}, "chosen calls a tool"),
        ({"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, OTHER]}, "part after 1 shared turn,"),
        ({"chosen": [ANSWER], "rejected": [OTHER]}, "share no turn"),
        ({"prompt": "other", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, "prompt is not what chosen and rejected begin with"),
        ({"prompt": [ANSWER], "chosen": "a", "rejected": "b"}, "the last turn of the prompt is the assistant's"),
        ({"chosen": "a", "rejected": "b"}, "share no beginning"),
        ({"question": "q", "chosen": "It is a", "rejected": "It is b"}, "there is no prompt"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt must be text that is not empty"),
        ({"input": [USER], "preferred_output": [ANSWER], "non_preferred_output": [OTHER]}, "input must be an object"),
        ({"input": {"messages": [USER]}, "preferred_output": [ANSWER, OTHER], "non_preferred_output": [OTHER]}, "not 2 turns"),
        ({"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}, "are the same"),
        ({"prompt": [SYSTEM], "completion": "a", "label": True}, "the last turn of the prompt is the system's"),
        ({"text": "a\0b"}, "NUL"),
        ({"text": "a", "note": "\ud83d"}, "half of a surrogate pair"),
        ({"text": "a", "note": float("inf")}, "JSON has no place for"),
    ],
)  # fmt: skip
def test_bad_row_is_refused_with_its_place_the_reason_and_a_way_out(record, words):
    with pytest.raises(RowError) as caught:
        parse(record, PLACE)
    assert str(caught.value) == f"x.jsonl, line 4: {caught.value.why}"
    assert words in caught.value.why
    assert caught.value.place == PLACE
    assert caught.value.mend


def test_escaped_backslash_before_u0000_is_no_nul():
    assert isinstance(parse({"text": "\\u0000"}, PLACE), Text)


def test_question_and_answer_by_other_names_are_told_how_to_be_mapped():
    with pytest.raises(RowError) as caught:
        parse({"question": "q", "answer": "a"}, PLACE)
    assert "--map prompt=question,completion=answer" in caught.value.mend


@pytest.mark.parametrize("where", ["user", "assistant"])
def test_half_a_surrogate_pair_is_refused_since_no_tokenizer_takes_it(where):
    turns = [{**turn, "content": "\ud83d"} if turn["role"] == where else turn for turn in (USER, ANSWER)]
    with pytest.raises(DataError, match="line 4"):
        parse({"messages": turns}, PLACE)


WORDS = ["role", "content", "type", "text", "tool_calls", "name", "from", "value", "function", "arguments", "messages"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["user", "assistant", "human", "gpt"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*KEYS, "other"]), JSON, max_size=5) | JSON, st.sampled_from(["auto", *FORMATS]))
def test_any_json_is_a_row_or_a_data_error(record: Any, format: str):
    try:
        row = parse(record, PLACE, format)
    except RowError as error:
        told = error
    else:
        told = None
        assert len(row.hash) == 64
        assert row.question is not None
    assert told is None or ("line 4" in str(told) and told.mend)
