import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import DataError
from mlxtune.data.export import export_record, native_record
from mlxtune.data.readers.columns import guess_mapping, mapping_option
from mlxtune.data.readers.formats import FORMATS, KEYS, detect, parse, parse_mapping
from mlxtune.data.rows import REASONING, Conversation, Location, Message, Preference, RowError, TextRow, Unpaired
from mlxtune.recipe.load import dump
from mlxtune.recipe.load import parse as parse_recipe
from mlxtune.recipe.schema import DataSection

LOCATION = Location(Path("x.jsonl"), 4)
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM, OTHER = {"role": "system", "content": "s"}, {"role": "assistant", "content": "b"}
S, Q, A = Message("system", "s"), Message("user", "q"), Message("assistant", "a")


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": arguments}}],
        **more,
    }


TOOL = {"type": "function", "function": {"name": "find", "description": "d", "parameters": {"type": "object", "properties": {}}}}
CALLED = {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]}
SHAREGPT_CALL = [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}]
TALK = "\n\nHuman: q\n\nAssistant: a\n\nHuman: and\nthen?\n\nAssistant:"


def conversation(*messages: Message, tools: tuple[dict[str, Any], ...] = (), **meta: Any) -> Conversation:
    return Conversation(LOCATION, meta, messages, tools)


def preference(chosen: str, rejected: str, *prompt: Message, **meta: Any) -> Preference:
    return Preference(LOCATION, meta, prompt, chosen, rejected)


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"messages": [SYSTEM, USER, ANSWER], "tools": [TOOL], "meta": {"k": 1}, "b": "z"}, conversation(S, Q, A, tools=(TOOL,), b="z", k=1)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]}, ANSWER]},
         conversation(Message("user", "qr"), A)),
        ({"messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
                       {"role": "function", "name": "f", "content": "5"}, ANSWER]},
         conversation(Q, Message("assistant", "", CALLED), Message("tool", "5", {"name": "f"}), A)),
        ({"messages": [USER, {**ANSWER, REASONING: "hm", "refusal": None}]}, conversation(Q, Message("assistant", "a", {REASONING: "hm"}))),
        ({"prompt": "q", "completion": "<think>\n\n</think>\n\na"}, conversation(Q, A)),
        ({"text": " a\nb ", "id": 3}, TextRow(LOCATION, {"id": 3}, " a\nb ")),
        ({"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["q", "a"]], "id": 1},
         conversation(S, Q, A, Message("user", "Add.\n1 2"), Message("assistant", "3"), id=1)),
        ({"instruction": "q", "input": "", "output": "a", "system": ""}, conversation(Q, A)),
        *(({"conversations": [*SHAREGPT_CALL, {"from": name, "value": "[5]"}, {"from": "gpt", "value": "a"}],
            "tools": json.dumps([TOOL["function"]]), "system": "s"},
           conversation(S, Q, Message("assistant", "", CALLED), Message("tool", "[5]"), A, tools=(TOOL,)))
          for name in ("observation", "tool", "function")),
        ({"chosen": "The sky is blue.", "rejected": "The sky is green."},  # TRL's own example
         preference(" blue.", " green.", Message("user", "The sky is"))),
        ({"chosen": "The sky is blue.", "rejected": "The sky is black."}, preference(" blue.", " black.", Message("user", "The sky is"))),
        ({"input": {"messages": [SYSTEM, USER], "tools": [], "n": True}, "preferred_output": [ANSWER], "non_preferred_output": [OTHER]},
         preference("a", "b", S, Q, n=True)),
        ({"prompt": "q", "completion": "a", "label": "spam"}, conversation(Q, A, label="spam")),
        *((pair, preference("yes", "no", Q, A, Message("user", "and\nthen?"))) for pair in (
            {"chosen": f"{TALK} yes", "rejected": f"{TALK} no"}, {"prompt": TALK, "chosen": " yes", "rejected": " no"},
            {"prompt": TALK, "chosen": f"{TALK} yes", "rejected": f"{TALK} no"},
        )),
        ({"text": "Human: q\n\nAssistant: a"}, conversation(Q, A)),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", "completion": " a"}, conversation(Q, A)),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", "completion": " a", "label": False}, Unpaired(LOCATION, {}, (Q,), "a", False)),
    ],
)  # fmt: skip
def test_a_record_is_read_as_a_row(record: dict[str, Any], row: Any) -> None:
    assert parse(record, LOCATION) == row


def test_tool_call_arguments_may_be_an_object_or_a_string():
    result = {"role": "tool", "content": "5", "name": "f", "tool_call_id": "1"}
    first, second = (
        parse({"messages": [USER, call(arguments), result, ANSWER]}, LOCATION) for arguments in ('{"x": [1, "é"]}', {"x": [1, "é"]})
    )
    assert first.messages[1] == Message(
        "assistant", "", {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": [1, "é"]}}}]}
    )
    assert first.messages[2].extra == {"name": "f", "tool_call_id": "1"}
    assert first.hash == second.hash


@pytest.mark.parametrize("prompt", ["q", [USER]])
@pytest.mark.parametrize("completion", ["a", [ANSWER]])
def test_a_completion_becomes_a_conversation(prompt, completion):
    assert parse({"prompt": prompt, "completion": completion}, LOCATION) == Conversation(LOCATION, {}, (Q, A))


def test_sharegpt_names_become_roles():
    turns = [("system", "s"), ("human", "q"), ("gpt", "a"), ("user", "r"), ("chatgpt", "b"), ("human", "t"), ("bing", "c"), ("human", "u"), ("bard", "d")]  # fmt: skip
    row = parse({"conversations": [{"from": name, "value": text} for name, text in turns]}, LOCATION)
    assert [turn.role for turn in row.messages] == ["system", *["user", "assistant"] * 4]
    assert [turn.content for turn in row.messages] == [text for _, text in turns]


@pytest.mark.parametrize("wrap", [lambda answer: answer, lambda answer: [{"role": "assistant", "content": answer}], lambda answer: {"from": "gpt", "value": answer}])  # fmt: skip
@pytest.mark.parametrize("prompt", [{"prompt": "q"}, {"prompt": [USER]}, {"conversations": [{"from": "human", "value": "q"}]}, {"instruction": "q", "input": ""}])  # fmt: skip
def test_preference_answers_may_be_text_or_turns(prompt, wrap):
    row = parse({**prompt, "chosen": wrap("good"), "rejected": wrap("bad")}, LOCATION)
    assert row == Preference(LOCATION, {}, (Q,), "good", "bad")


@pytest.mark.parametrize("prompt", [{}, {"prompt": "q"}, {"prompt": [USER]}, {"prompt": [SYSTEM, USER]}])
def test_shared_turns_are_the_prompt(prompt):
    row = parse({**prompt, "chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, OTHER]}, LOCATION)
    assert row == Preference(LOCATION, {}, (Message("system", "s"), Q), "a", "b")


@pytest.mark.parametrize("label", [True, "true", "True"])
@pytest.mark.parametrize("wrap", [str, lambda text: [{"role": "assistant", "content": text}]])
def test_a_labeled_completion_is_unpaired(wrap, label):
    row = parse({"prompt": "q", "completion": wrap("a"), "label": label}, LOCATION)
    assert row == Unpaired(LOCATION, {}, (Q,), "a", True)
    assert parse({"prompt": "q", "completion": "a", "label": False}, LOCATION).hash != row.hash
    assert parse({"prompt": "q", "completion": "a", "label": 0}, LOCATION, "unpaired") == Unpaired(LOCATION, {}, (Q,), "a", False)


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
    "export": {"messages": [USER], "choices": [{"message": ANSWER}]},
    "scored-pair": {"prompt": "q", "response_a": "a", "response_b": "b", "winner": "a"},
}


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_is_detected_and_recorded(format):
    assert detect(EXAMPLES[format]) == format
    row = parse(EXAMPLES[format], LOCATION)
    assert row.format == format
    assert row == parse(EXAMPLES[format], LOCATION, format)
    assert "format" not in json.dumps(row.content)


@pytest.mark.parametrize("format", FORMATS)
def test_an_explicit_format_is_not_detected(format):
    with pytest.raises(DataError, match="line 4"):
        parse({"nothing": 1}, LOCATION, format)
    assert parse({"text": "t", "messages": [USER, ANSWER]}, LOCATION, "text") == TextRow(
        LOCATION, {"messages": [USER, ANSWER]}, "t"
    )


def test_the_hash_does_not_depend_on_the_format():
    same = ("chat", "completion", "alpaca", "sharegpt", "transcript")
    assert len({parse(EXAMPLES[format], LOCATION).hash for format in same}) == 1
    assert parse(EXAMPLES["preference"], LOCATION).hash == parse(EXAMPLES["openai-preference"], LOCATION).hash


def test_columns_are_mapped():
    record = {"question": "q", "answer": "a", "n": 1}
    assert parse(record, LOCATION, mapping=parse_mapping("prompt=question, completion=answer")) == Conversation(
        LOCATION, {"n": 1}, (Q, A)
    )
    swapped = parse({"prompt": "a", "completion": "q"}, LOCATION, mapping={"prompt": "completion", "completion": "prompt"})
    assert swapped == Conversation(LOCATION, {}, (Q, A))
    with pytest.raises(RowError, match="the row has no column answer, which the map names") as caught:
        parse({"question": "q"}, LOCATION, mapping=parse_mapping("prompt=question,completion=answer"))
    assert caught.value.hint == "Correct the map. The columns are question."
    with pytest.raises(RowError) as caught:
        parse(record, LOCATION, mapping=parse_mapping("prompt=querstion,completion=answer"))
    assert caught.value.hint == "Correct the map. Did you mean question?"


def test_a_recipe_accepts_every_format_and_a_mapping():
    assert set(get_args(get_type_hints(DataSection)["format"])) == {"auto", *FORMATS}
    text = 'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d.csv"\nmap = { prompt = "question", completion = "answer" }\n'
    recipe = parse_recipe(text)
    assert recipe.data.map == parse_mapping("prompt=question,completion=answer")
    assert parse_recipe(dump(recipe)).data == dataclasses.replace(recipe.data, source=str(recipe.source))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt", "does not have the form"),
        ("=x", "does not have the form"),
        ("promt=x", "unknown key promt"),
        ("prompt=x,completion=x", "no column twice"),
    ],
)
def test_an_invalid_mapping_is_refused(text, words):
    with pytest.raises(DataError, match=words) as caught:
        parse_mapping(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([1], "must be a JSON object, not list"),
        ({"a": 1, "b": 2}, "no known format has these keys: a, b"),
        ({}, "no keys"),
        ({"messages": []}, "non-empty list of turns"),
        ({"messages": "hi"}, "non-empty list of turns"),
        ({"messages": [7]}, "turn 1 must be an object"),
        ({"messages": [USER]}, "no assistant turn at the end"),
        ({"messages": [ANSWER]}, "no user turn"),
        ({"messages": [USER, ANSWER, USER]}, "no assistant turn at the end"),
        ({"messages": [USER, USER, ANSWER]}, "two user turns in a row"),
        ({"messages": [USER, ANSWER, ANSWER]}, "two assistant turns in a row"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "assistant turn is empty"),
        ({"messages": [{"role": "human", "content": "q"}, ANSWER]}, 'turn 1 has the unknown role "human"'),
        ({"messages": [{"role": ["user"], "content": "q"}, ANSWER]}, "turn 1 has the unknown role"),
        ({"messages": [{"role": "user", "content": 5}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user", "content": []}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user", "content": ["x", {"type": "image"}]}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [{"role": "user"}, ANSWER]}, "content of turn 1 must be text"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}, USER, ANSWER]}, "turn 2 has the weight 0.5, but a weight is 0"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "every assistant turn has a weight of 0"),
        ({"messages": [USER, {**ANSWER, "reasoning": ["a"]}]}, "the reasoning of turn 2 must be text"),
        ({"messages": [USER, {**ANSWER, "reasoning": "a", "thinking": "b"}]}, "two different texts of reasoning"),
        ({"text": "a\ufdd0b"}, "U+FDD0"),
        ({"messages": [USER, call("{")]}, "invalid JSON in the arguments of f in turn 2"),
        ({"messages": [USER, call("5")]}, "must be an object"),
        ({"messages": [USER, call([1])]}, "must be an object"),
        ({"messages": [USER, call("[" * 100_000)]}, "in turn 2: it is nested deeper"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"function": {"arguments": {}}}]}]}, "calls a tool without a name"),
        ({"messages": [USER, {**ANSWER, "tool_calls": "f"}]}, "calls a tool without a name"),
        ({"messages": [USER, ANSWER], "tools": 5}, "tools must be a list of objects"),
        ({"messages": [USER, ANSWER], "tools": "abc"}, "invalid JSON in the tools"),
        ({"messages": [USER, ANSWER], "tools": [1]}, "tools must be a list of objects"),
        ({"messages": [SYSTEM, USER, ANSWER], "system": "t"}, "system differs from the system turn"),
        ({"messages": [USER, ANSWER], "system": 5}, "system must be a string"),
        ({"prompt": "q", "completion": ""}, "completion must be a non-empty string"),
        ({"prompt": 3, "completion": "a"}, "prompt must be a non-empty string"),
        ({"text": "  "}, "text must be a non-empty string"),
        ({"text": None}, "text must be a non-empty string"),
        ({"text": "Human: q\n\nAssistant: a\n\nHuman: r"}, "no assistant turn at the end"),
        ({"instruction": "q", "output": ["a", 7]}, "output must be a non-empty string"),
        ({"instruction": "q", "input": 5, "output": "a"}, "input must be a string"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "history must be a list of"),
        ({"conversations": [{"from": "alien", "value": "q"}]}, 'turn 1 has the unknown sender "alien"'),
        ({"conversations": [{"from": ["human"], "value": "q"}]}, "turn 1 has the unknown sender"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f()"}]}, "invalid JSON in the call in turn 2"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are identical"),
        ({"prompt": "q", "chosen": "", "rejected": "a"}, "chosen must be a non-empty string"),
        ({"prompt": "q", "chosen": "a", "rejected": [ANSWER, ANSWER]}, "chosen has one assistant turn and rejected has 2 turns"),
        ({"prompt": "q", "chosen": [USER], "rejected": [ANSWER]}, "chosen ends with the user's turn"),
        ({"prompt": "q", "chosen": [call({})], "rejected": [ANSWER]}, "chosen calls a tool"),
        ({"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, OTHER]}, "after 1 shared turn, chosen has"),
        ({"chosen": [ANSWER], "rejected": [OTHER]}, "do not share a turn"),
        ({"prompt": "other", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, "prompt differs from the turns"),
        ({"prompt": [ANSWER], "chosen": "a", "rejected": "b"}, "the prompt ends with the assistant's"),
        ({"chosen": "a", "rejected": "b"}, "do not begin with the same words"),
        ({"question": "q", "chosen": "It is a", "rejected": "It is b"}, "there is no prompt"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt must be a non-empty string"),
        ({"input": [USER], "preferred_output": [ANSWER], "non_preferred_output": [OTHER]}, "input must be an object"),
        ({"input": {"messages": [USER]}, "preferred_output": [ANSWER, OTHER], "non_preferred_output": [OTHER]}, "not 2 turns"),
        ({"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}, "are identical"),
        ({"prompt": [SYSTEM], "completion": "a", "label": True}, "the prompt ends with the system's"),
        ({"text": "a\0b"}, "NUL"),
        ({"text": "a", "note": "\ud83d"}, "lone surrogate"),
        ({"text": "a", "note": float("inf")}, "JSON does not allow"),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_with_location_reason_and_hint(record, words):
    with pytest.raises(RowError) as caught:
        parse(record, LOCATION)
    assert str(caught.value) == f"x.jsonl, line 4: {caught.value.reason}"
    assert words in caught.value.reason
    assert caught.value.location == LOCATION
    assert caught.value.hint


def test_an_escaped_backslash_before_u0000_is_not_nul():
    assert isinstance(parse({"text": "\\u0000"}, LOCATION), TextRow)


def test_question_and_answer_columns_get_a_mapping_hint():
    with pytest.raises(RowError) as caught:
        parse({"question": "q", "answer": "a"}, LOCATION)
    assert "--map prompt=question,completion=answer" in caught.value.hint


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
        row = parse(record, LOCATION, format)
    except RowError as error:
        raised = error
    else:
        raised = None
        assert len(row.hash) == 64
        assert row.prompt_content is not None
    assert raised is None or ("line 4" in str(raised) and raised.hint)


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "Yes.", "reasoning_content": "Rain."},
        {"content": "Yes.", "reasoning": "Rain."},
        {"content": "Yes.", "thinking": " Rain.\n"},
        {"content": "<think>\nRain.\n</think>\n\nYes."},
        {"content": "<think>Rain.</think>Yes.", "reasoning": "Rain."},
        {"content": [{"type": "thinking", "thinking": "Rain."}, {"type": "text", "text": "Yes."}]},
    ],
)
def test_reasoning_is_read_into_one_place(answer: dict[str, Any]) -> None:
    row = parse({"messages": [USER, {"role": "assistant", **answer}]}, LOCATION)
    assert row.messages[1] == Message("assistant", "Yes.", {"reasoning_content": "Rain."})
    assert parse(row.content, LOCATION) == dataclasses.replace(row, format="chat")


def test_a_pair_keeps_its_reasoning_in_one_form_and_its_reference_has_none() -> None:
    turn = {"role": "assistant", "content": "Yes.", "reasoning": "Rain."}
    row = parse({"prompt": "Wet?", "chosen": [turn], "rejected": "No."}, LOCATION)
    assert (row.chosen, row.reference) == ("<think>\nRain.\n</think>\n\nYes.", "Yes.")


def test_only_the_completion_of_a_prompt_with_answers_is_trained() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Rope?"}]
    row = parse({"prompt": turns, "completion": "60 m."}, LOCATION)
    assert [turn.trained for turn in row.messages if turn.role == "assistant"] == [False, True]
    same = parse({"messages": [*turns, {"role": "assistant", "content": "60 m."}]}, LOCATION)
    assert row.hash == same.hash  # its splits and reviews stay as they were
    assert parse(row.content, LOCATION).messages == row.messages


def test_a_turn_with_weight_0_is_read_only() -> None:
    row = parse({"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]}, LOCATION)
    assert [turn.trained for turn in row.messages if turn.role == "assistant"] == [False, True]
    assert export_record(row, "openai")["messages"][1]["weight"] == 0


def test_llamafactory_v1_parts_are_read() -> None:
    def turn(role: str, *parts: tuple[str, str], **more: Any) -> dict[str, Any]:
        return {"role": role, "content": [{"type": kind, "value": value} for kind, value in parts], **more}

    messages = [
        turn("user", ("text", "q"), loss_weight=0.0),
        turn(
            "assistant", ("reasoning", "r"), ("text", "b"), ("tool_call", '{"name": "f", "arguments": {"x": 1}}'), loss_weight=0.0
        ),
        turn("tool", ("text", "5"), loss_weight=0.0),
        turn("assistant", ("reasoning", "r"), ("tool_call", '{"name": "g", "arguments": "{}"}'), loss_weight=0.0),
        turn("tool", ("text", "6"), loss_weight=0.0),
        turn("assistant", ("text", "a"), loss_weight=1.0),
    ]
    row = parse({"messages": messages}, LOCATION)
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    second = {"type": "function", "function": {"name": "g", "arguments": {}}}
    turns = [Message("assistant", text, {"tool_calls": [one], REASONING: "r"}, False) for text, one in (("b", call), ("", second))]
    assert row.messages == (Q, turns[0], Message("tool", "5"), turns[1], Message("tool", "6"), A)
    pair = {"chosen_messages": [messages[0], messages[-1]], "rejected_messages": [messages[0], turn("assistant", ("text", "b"))]}
    assert parse(pair, LOCATION) == Preference(LOCATION, {}, (Q,), "a", "b")
    with pytest.raises(RowError, match="must be text"):
        parse({"messages": [turn("user", ("image_url", "x.png")), ANSWER]}, LOCATION)


@pytest.mark.parametrize("turns", [{"messages": [SYSTEM, USER, ANSWER]}, {"conversations": [SYSTEM, USER, ANSWER]}])
def test_a_labeled_conversation_is_unpaired(turns: dict[str, Any]) -> None:
    assert parse({**turns, "label": False}, LOCATION) == Unpaired(LOCATION, {}, (Message("system", "s"), Q), "a", False)
    row = parse({**turns, "label": False, "tools": [TOOL]}, LOCATION)
    assert row == Unpaired(LOCATION, {}, (Message("system", "s"), Q), "a", False, (TOOL,))
    assert parse(native_record(row), LOCATION) == row
    assert isinstance(parse({**turns, "label": 3}, LOCATION), Conversation)  # the user's own class
    assert isinstance(parse({**turns, "label": True}, LOCATION, "chat" if "messages" in turns else "sharegpt"), Conversation)


def test_arguments_may_be_encoded_twice() -> None:
    row = parse({"messages": [USER, call(json.dumps(json.dumps({"x": 1})))]}, LOCATION)
    assert row.messages[1].extra["tool_calls"][0]["function"]["arguments"] == {"x": 1}


def test_a_map_reaches_nested_columns() -> None:
    record = {"id": 1, "instruction": "q", "instances": [{"input": "", "output": "a"}]}
    row = parse(record, LOCATION, mapping={"input": "instances[0].input", "output": "instances[0].output"})
    assert (row.messages, row.format) == ((Q, A), "alpaca")
    with pytest.raises(RowError, match=r"no column instances\[1\].output"):
        parse(record, LOCATION, mapping={"output": "instances[1].output"})
    assert parse({"a.b": "x"}, LOCATION, mapping={"text": "a.b"}) == TextRow(LOCATION, {}, "x")


@pytest.mark.parametrize(
    ("record", "mapping"),
    [
        ({"question": "q", "answer": "a"}, {"prompt": "question", "completion": "answer"}),
        ({"text": "q", "category": "c"}, {"prompt": "text", "completion": "category"}),
        (
            {"name": "n", "instruction": "q", "instances": [{"input": "i", "output": "a"}]},
            {"input": "instances[0].input", "output": "instances[0].output"},
        ),
        ({"Question": "q", "bestAnswer": "a"}, {"prompt": "Question", "completion": "bestAnswer"}),
        ({"query": "q", "good_reply": "a", "bad_reply": "b"}, {"prompt": "query", "chosen": "good_reply", "rejected": "bad_reply"}),
        ({"System Prompt": "s", "user_text": "q", "reply": "a"}, {"prompt": "user_text", "completion": "reply"}),
        ({"id": "1", "code": "x = 1; y = 2"}, {"text": "code"}),
        ({"n": 1}, {}),
        ({"input.text": "q", "output.text": "a", "id": 1}, {"prompt": "input.text", "completion": "output.text"}),
        ({"data": ["q", "a", "q", "a"]}, {"messages": "data"}),
        ({"data": ["q"], "text": "a"}, {}),
        ({"cats": {"A": 1.0, "B": 0.0}, "text": "q"}, {"prompt": "text", "completion": "cats"}),
        ({"prompt": "q", "text": "a", "prompt_class": "x"}, {"prompt": "prompt", "completion": "text"}),
        ({"question": "q", "answer": {"name": "f", "parameters": {}}}, {"prompt": "question", "completion": "answer"}),
        (
            {"context": "c", "question": "q", "answers": {"text": ["a"], "answer_start": [1]}},
            {"instruction": "question", "input": "context", "output": "answers.text"},
        ),
        ({"text": "q", "label": 3}, {"prompt": "text", "completion": "label"}),
        ({"input": {"": "a"}, "meta.x": {"y": "longest"}, "x": {"a.b": "longer"}, "code": "x"}, {"text": "code"}),
    ],
)
def test_a_map_is_guessed_from_the_columns(record: dict[str, Any], mapping: dict[str, str]) -> None:
    assert guess_mapping(record) == mapping
    if mapping:
        parse(record, LOCATION, mapping=mapping)


def test_a_map_is_quoted_for_the_shell() -> None:
    assert mapping_option({"prompt": "a", "completion": "b"}) == "--map prompt=a,completion=b"
    assert mapping_option({"output": "it[0].x"}) == "--map 'output=it[0].x'"
