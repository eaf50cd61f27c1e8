"""Conversations that are evaluated at every turn."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import write_rows

from mlxtune.data.importer import import_rows
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Location, turn_rows
from mlxtune.data.source import read_file, read_source
from mlxtune.data.split import split
from mlxtune.evaluation.answers import Answer, score_answers
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import evaluated_rows, load_rows, save_evidence
from mlxtune.evaluation.report_builder import metric_rates
from mlxtune.recipe import DataSection, EvaluationSection
from mlxtune.recipe import parse as parse_recipe

CONTRACT = Contract(EvaluationSection(correct=["calls"]))


def talk(*turns: tuple[str, str]) -> dict[str, Any]:
    """Return a conversation of questions and the door that each answer locks."""
    messages = []
    for question, door in turns:
        call = {"type": "function", "function": {"name": "lock", "arguments": {"door": door}}}
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    return {"messages": messages}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a published test file. Its first prompt and that of a training row are the same."""
    write_rows(tmp_path / "train.jsonl", [talk(("Lock the front door.", "front"), ("And the garage.", "garage"))])
    write_rows(
        tmp_path / "test.jsonl", [talk(("Lock the front door.", "front"), ("And the side.", "side"), ("No, the back.", "back"))]
    )
    return tmp_path


def test_a_conversation_is_right_if_all_of_its_turns_are() -> None:
    records = talk(("One.", "a"), ("Two.", "b")), talk(("Three.", "c"), ("Four.", "d")), talk(("Five.", "e"))
    rows = [one for record in records for one in turn_rows(parse(record, Location(Path("x"), 1)))]  # type: ignore[arg-type]
    outputs = [row.reference or "" for row in rows]
    outputs[2] = '{"name": "lock", "arguments": {"door": "z"}}'
    scored = score_answers(
        CONTRACT, evaluated_rows(rows), [Answer(row.id, text, "stop") for row, text in zip(rows, outputs, strict=True)]
    )
    rates = {rate.metric: rate for rate in metric_rates([answer.scores for answer in scored])}
    assert [(rates[name].hits, rates[name].total) for name in ("correct", "conversation")] == [(4, 5), (1, 2)]
    assert rates["conversation"].failures == {"wrong_turns": 1}
    assert ["conversation" in answer.scores for answer in scored] == [False, True, False, True, False]


def test_rows_that_share_their_first_turns_are_separate_conversations() -> None:
    records = talk(("One.", "a"), ("Two.", "b")), talk(("One.", "a"), ("Three.", "c"))
    rows = list({one.hash: one for record in records for one in turn_rows(parse(record, Location(Path("x"), 1)))}.values())  # type: ignore[arg-type]
    scored = score_answers(CONTRACT, evaluated_rows(rows), [Answer(row.id, row.reference or "", "stop") for row in rows])
    assert [answer.scores["conversation"].passed for answer in scored if "conversation" in answer.scores] == [True, True]


def test_every_turn_of_held_out_conversations_is_evaluated_unless_its_prompt_is_trained(folder: Path) -> None:
    for turns, expected in (("auto", ["back"]), ("each", ["side", "back"])):
        splits = split(read_source(folder), DataSection(str(folder), validation=0, turns=turns))  # type: ignore[arg-type]
        rows = splits.prompts
        assert [json.loads(row.reference or "")["arguments"]["door"] for row in rows] == expected
    recipe = parse_recipe(f'name = "t"\n[model]\nbase = "b"\n[data]\nsource = "{folder}"\nturns = "each"\n')
    save_evidence(folder, recipe, rows, read_source(folder).rows)
    assert len({row.group for row in load_rows(folder)}) == 1


def test_an_import_writes_one_row_for_every_answer(folder: Path) -> None:
    result = import_rows(folder / "test.jsonl", folder / "turns.jsonl", each_turn=True)
    rows = read_file(folder / "turns.jsonl")
    assert result.rows == 3
    assert all(isinstance(row, Conversation) for row in rows)
    *prompt, _ = talk(("One.", "a"), ("Two.", "b"))["messages"]
    write_rows(
        folder / "split.jsonl",
        [{"messages": json.dumps(prompt), "answer": json.dumps({"name": "lock", "parameters": {"door": "b"}})}],
    )
    mapping = {"prompt": "messages", "completion": "answer"}
    assert import_rows(folder / "split.jsonl", folder / "two.jsonl", mapping=mapping, each_turn=True).rows == 2
    doors = [json.loads(row.reference)["arguments"]["door"] for row in read_file(folder / "two.jsonl")]  # type: ignore[union-attr, arg-type]
    assert doors == ["a", "b"]
    trained = [[turn.trained for turn in row.messages if turn.role == "assistant"] for row in rows if isinstance(row, Conversation)]
    assert trained == [[True], [False, True], [False, False, True]]
