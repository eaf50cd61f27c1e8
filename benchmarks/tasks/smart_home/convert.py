"""Smart home (Distil Labs): conversations in which each answer calls one of six functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sources import Row, each_answer, lines, with_validation

_DATA = "slm-finetuning/data"


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Return whole conversations to train and validate on, and a row for each answer of the test conversations."""
    job = json.loads(files[f"{_DATA}/job_description.json"])
    train, test = (
        [{"messages": _turns(row, job["task_description"]), "tools": job["tools"]} for row in lines(files[f"{_DATA}/{name}.jsonl"])]
        for name in ("train", "test")
    )
    return with_validation(train, [turn for row in test for turn in each_answer(row)], rows, held_out)


def _turns(row: Mapping[str, str], system: str) -> list[dict[str, Any]]:
    call = json.loads(row["answer"])
    function = {"name": call["name"], "arguments": call["parameters"]}
    answer = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return [{"role": "system", "content": system}, *json.loads(row["question"]), answer]
