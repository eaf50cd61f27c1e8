"""Files of other tools, each as that tool writes it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import write_rows

from mlxtune.core.errors import DataError
from mlxtune.data.checks.base import Evidence
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.lengths import cut_off
from mlxtune.data.column_map import column_use, named_columns
from mlxtune.data.importer import import_rows
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Location, Row, RowError, prompt_text
from mlxtune.data.source import read_file, read_source
from mlxtune.recipe import DataSection

LOCATION = Location(Path("x.jsonl"), 1)
HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CHOICE = [{"index": 0, "message": HELLO, "finish_reason": "length"}]
PRODIGY = {"text": "Hi", "label": "Hello", "_input_hash": 1, "_task_hash": 2}


def node(id: str, parent: str | None, role: str, text: str) -> dict[str, Any]:
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}}
    return {"id": id, "message": message, "parent": parent, "children": []}


def reply(role: str, text: str, rank: int, *replies: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "text": text, "rank": rank, "replies": list(replies)}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [HI], "choices": CHOICE},
        {"request": {"model": "m", "messages": [HI]}, "response": {"choices": CHOICE}},
        {"body": {"messages": [HI]}, "response": {"status_code": 200, "body": {"choices": CHOICE}}},
        {**PRODIGY, "answer": "accept"},
        {"text": "Hi", "options": [{"id": "Hello"}], "accept": ["Hello"], "answer": "accept", "_input_hash": 1, "_task_hash": 2},
        {"id": 1, "data": {"id": 7, "text": "Hi"}, "annotations": [{"result": [{"value": {"choices": ["Hello"]}}]}]},
        {"data": {"text": "Hi"}, "annotations": [{"result": [{"value": {"start": 0, "labels": ["X"]}}, {"value": {"text": ["Hello"]}}]}]},
        {"fields": {"instruction": "Hi"}, "responses": {"answer": [{"value": "Hello", "user_id": "u"}]}, "status": "completed"},
        {"fields": {"prompt": "Hi"}, "responses": [{"values": {"q": {"value": "Hello"}}}], "status": "pending"},
        {"fields": {"prompt": "Hi", "response": "Hello"}, "responses": {"stars": [{"value": 4}]}},
        {"_server_id": "y", "status": "pending", "instruction": "Hi", "response.responses": ["Hello"], "response.suggestion": "Hey"},
        {"_server_id": "y", "status": "completed", "text": "Hi", "answer.responses": ["Hello"], "answer.responses.users": ["u"]},
        {"message_tree_id": "t", "prompt": reply("prompter", "Hi", 0, reply("assistant", "No", 1), reply("assistant", "Hello", 0))},
        {"current_node": "b", "mapping": {"a": node("a", None, "user", "Hi"), "b": node("b", "a", "assistant", "Hello")}},
        ["Hi", "Hello"],
        {"prompt": ["Hi"], "completion": ["Hello"]},
        {"text": "Below is an instruction that describes a task.\n\n### Instruction:\nHi\n\n### Response:\nHello"},
        {"text": "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>Hello<｜end▁of▁sentence｜>"},
        {"text": "USER: Hi\n\nASSISTANT: Hello <|endoftext|>"},
        {"text": "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"},
    ],
)  # fmt: skip
def test_a_record_of_a_tool_is_a_conversation(record: dict[str, Any]) -> None:
    row = parse(record, LOCATION)
    assert isinstance(row, Conversation)
    assert (prompt_text(row), row.reference) == ("Hi", "Hello")


@pytest.mark.parametrize(
    "record",
    [
        {"question": "q", "response_j": "good", "response_k": "bad", "score_j": 5, "score_k": 1},
        {"question": "q", "response_j": "bad", "response_k": "good", "score_j": 1, "score_k": 5},
        {"prompt": "q", "response_0": "bad", "response_1": "good", "better_response_id": 1},
        {"history": "q", "human_ref_A": "good", "human_ref_B": "bad", "score_A": 7, "score_B": 2},
        {"context": [{"role": "user", "content": "q"}], "response1": "good", "response2": "bad", "overall_preference": -2},
        {"prompt": "q", "response_a": "bad", "response_b": "good", "winner": "model_b"},
        {"prompt": "q", "response_a": "good", "response_b": "bad", "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
    ],
)
def test_two_answers_with_a_verdict_are_a_pair(record: dict[str, Any]) -> None:
    row = parse(record, LOCATION)
    assert (prompt_text(row), row.chosen, row.rejected) == ("q", "good", "bad")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"question": "q", "response_j": "a", "response_k": "b"}, "nothing says whether response_j or response_k is better"),
        ({"prompt": "q", "response1": "a", "response2": "b", "overall_preference": 0}, "nothing says"),
        ({"prompt": "q", "response_a": "a", "response_b": "b", "winner": "tie"}, "nothing says"),
        ({"message_id": "a", "parent_id": "b", "role": "assistant", "text": "x"}, "one message of a tree"),
        ({"custom_id": "r", "response": {"body": {"choices": CHOICE}}}, "no prompt"),
        ({"data": {"text": "Hi"}, "annotations": []}, "nobody has answered"),
        ({"message_tree_id": "t", "prompt": "Hi"}, "not as its tool writes it"),
        ({"current_node": [], "mapping": {"a": 1}}, "not as its tool writes it"),
    ],
)
def test_a_record_that_does_not_say_what_to_learn_is_refused(record: dict[str, Any], words: str) -> None:
    with pytest.raises(RowError, match=words):
        parse(record, LOCATION)


def test_decisions_of_a_labeling_tool_are_kept(tmp_path: Path) -> None:
    answers = ("accept", "reject", "ignore")
    file = write_rows(tmp_path / "p.jsonl", [{**PRODIGY, "text": text, "answer": text} for text in answers])
    source = read_source(file)
    assert [(row.format, prompt_text(row)) for row in source.rows] == [("export", "accept")]
    assert (source.left_out, len(source.accepted)) == (2, 1)
    import_rows(file, tmp_path / "out.jsonl")
    assert read_source(tmp_path / "out.jsonl").left_out == 2
    response = {"values": {"q": {"value": "No"}}, "status": "discarded"}
    argilla = write_rows(tmp_path / "a.jsonl", [{"fields": {"prompt": "Hi"}, "responses": [response]}])
    assert read_source(argilla).left_out == 1
    use = column_use(file, {})
    assert (use.places, use.unused) == (
        {"prompt": "text", "completion": "label", "review_status": "answer"}, ("_input_hash", "_task_hash"),
    )  # fmt: skip


def test_an_accepted_text_without_spans_has_no_entities() -> None:
    record = {"text": "Hi", "tokens": [{"text": "Hi", "start": 0, "end": 2}], "_input_hash": 1, "_task_hash": 2}
    row = parse({**record, "answer": "accept"}, LOCATION)
    assert isinstance(row, Conversation)
    assert row.reference == "[]"
    with pytest.raises(RowError, match="nobody has answered"):
        parse({**record, "answer": "ignore", "options": []}, LOCATION)


def test_an_answer_that_an_api_cut_off_is_found() -> None:
    row = parse({"messages": [HI], "choices": CHOICE}, LOCATION)
    assert cut_off(CheckInput(0, row)) == Evidence(values={"value": "length"})


def test_windows_1252_is_converted_and_utf_8_with_one_damaged_byte_is_not(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("prompt,completion\nQ,“Café” – it’s 5 €\n".encode("cp1252"))
    (row,) = read_file(file)
    assert isinstance(row, Conversation)
    assert row.reference == "“Café” – it’s 5 €"
    assert import_rows(file, tmp_path / "out.jsonl").notes == ("cp1252",)
    file.write_bytes("prompt,completion\nQ,Café\nQ,x".encode() + b"\xe9\n")
    with pytest.raises(DataError, match="not valid UTF-8"):
        read_file(file)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"question": f"q {number}", "answer": f"https://example.org/{number}"} for number in range(3)],
            "answer .* has links or IDs",
        ),
        ([{"question": f"q {number}", "answer": "a" if number == 0 else ""} for number in range(3)], "answer .* is mostly empty"),
        (
            [{"question": f"q {number}", "answer": ["http://a.b", "a", "b", *[""] * 6][number]} for number in range(9)],
            "answer .* is mostly empty",  # one of three answers is a link
        ),
        ([{"source": "wiki", "answer": f"a {number}"} for number in range(10)], "source .* has the same value in all rows"),
    ],
)
def test_names_that_disagree_with_contents_are_refused(rows: list[dict[str, str]], words: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=words):
        named_columns(file, DataSection(str(file)))


def test_a_json_file_of_texts_is_read_as_texts(tmp_path: Path) -> None:
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(["one", "two"]))
    rows: tuple[Row, ...] = read_file(file)
    assert [row.content for row in rows] == [{"text": "one"}, {"text": "two"}]
