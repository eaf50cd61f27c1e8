"""Smart home (Distil Labs): conversations in which each answer calls one of six functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sources import Row, lines, with_validation

_DATA = "slm-finetuning/data"


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Return whole conversations to train and validate on, and a row for each answer of the test conversations.

    A test row whose prompt begins a training conversation is left out (18 of 152).
    """
    job = json.loads(files[f"{_DATA}/job_description.json"])
    train, test = (
        [{"messages": _turns(row, job["task_description"]), "tools": job["tools"]} for row in lines(files[f"{_DATA}/{name}.jsonl"])]
        for name in ("train", "test")
    )
    trained = [turn["messages"][:-1] for row in train for turn in _each(row)]
    new = [turn for row in test for turn in _each(row) if turn["messages"][:-1] not in trained]
    return with_validation(train, new, rows, held_out)


def _turns(row: Mapping[str, str], system: str) -> list[dict[str, Any]]:
    call = json.loads(row["answer"])
    function = {"name": call["name"], "arguments": call["parameters"]}
    answer = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return [{"role": "system", "content": system}, *json.loads(row["question"]), answer]


def _each(row: Row) -> list[Row]:
    """Return the conversation up to each of its answers."""
    turns = row["messages"]
    ends = [number for number, turn in enumerate(turns, 1) if turn["role"] == "assistant"]
    return [row | {"messages": turns[:end]} for end in ends]
