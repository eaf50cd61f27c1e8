"""The converters of the public tasks, on samples of the same shape that are made up."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.split import recipe_splits
from mlxtune.evaluation.off_task.prompts import read_prompts
from mlxtune.recipe import load

FOLDER = Path(__file__).parent.parent / "benchmarks" / "tasks"
sys.path.insert(0, str(FOLDER))
import sources  # noqa: E402

TASKS = [sources.load(name) for name in sources.names()]


def _lines(*documents: Any) -> str:
    return "\n".join(json.dumps(document) for document in documents)


def _booking(text: str, slot: str, value: str) -> Mapping[str, Any]:
    start = text.index(value)
    span = {"startIndex": start, "endIndex": start + len(value)} if start else {"endIndex": len(value)}
    return {"userInput": {"text": text}, "context": {"requestedSlots": [slot]}, "labels": [{"slot": slot, "valueSpan": span}]}


def _home(turns: int, name: str) -> Mapping[str, str]:
    call = {"type": "function", "function": {"name": "open_blind", "arguments": {"room": name}}}
    asked = [{"role": "user", "content": f"open the {name} blind"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    question = [*asked * (turns - 1), asked[0]]
    return {"question": json.dumps(question), "answer": json.dumps({"name": "open_blind", "parameters": {"room": name}})}


def _pair(number: int, rejected: str) -> Mapping[str, str]:
    prompt = f"\n\nHuman: How do I keep bread fresh for {number} days?\n\nAssistant:"
    return {"chosen": f"{prompt} In a linen bag.", "rejected": f"{prompt} {rejected}"}


def _gzipped(*documents: Any) -> bytes:
    return gzip.compress(_lines(*documents).encode())


BOOKINGS = json.dumps(
    [_booking("8 of us, please", "people", "8 of us"), *[_booking(f"at {n} pm", "time", f"{n} pm") for n in range(1, 12)]]
)
RESTAURANTS = "mr,ref\n" + "".join(
    f'"name[Inn {n}], eatType[pub], near[The Dome, Hall]","Inn {n} is a pub near The Dome, Hall."\n' for n in range(20)
)
PROBLEMS = _lines(
    *[{"question": f"{n} + 1?", "answer": f"It is {n} + 1 = <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"} for n in range(12)]
)
QUESTIONS = [
    {
        "id": f"q{n}",
        "question": [[{"role": "user", "content": f"Book {n} seats"}]],
        "function": [
            {"name": "book", "description": "Book.", "parameters": {"type": "dict", "properties": {"rate": {"type": "float"}}}}
        ],
    }
    for n in range(12)
]
ANSWERS = [
    {"id": f"q{n}", "ground_truth": [{"book": {"seats": [n, str(n)], "note": ["", "x"], "who": [{"name": ["Ann", "Anne"]}]}}]}
    for n in range(12)
]
FILES = {
    "banking77": {"train": "text,category\n" + "".join(f'"Where is card {n}?",lost_{n % 2}\n' for n in range(12)), "test": 'text,category\n"Card?",lost_0\n'},
    "bfcl": {"data/BFCL": _lines(*QUESTIONS), "possible_answer": _lines(*ANSWERS)},
    "e2e": {"devset": RESTAURANTS, "testset": RESTAURANTS},
    "gsm8k": {"train": PROBLEMS, "test": PROBLEMS},
    "hh_rlhf": {
        "train": _gzipped(*[_pair(n, "In a sack.") for n in range(12)]),
        "test": _gzipped(_pair(20, "In a big box."), _pair(21, "No."), {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c"}),
    },
    "hh_rlhf_harmless": {"test": _gzipped(*[_pair(n, box) for n in range(12) for box in ("In a big box.", "In a big bag.")])},
    "restaurants8k": {"train": BOOKINGS, "test": BOOKINGS},
    "smart_home": {
        "job": json.dumps({"task_description": "Call a function.", "tools": [{"type": "function", "function": {
            "name": "open_blind", "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
        }}]}),
        "train": _lines(*[_home(2, f"room {n}") for n in range(12)]),
        "test": _lines(_home(3, "room 1"), _home(2, "attic")),
    },
}  # fmt: skip


def _files(task: sources.Task) -> dict[str, bytes]:
    """Return the sample for each of the task's files: the one whose key is in the file's path."""
    samples = FILES[task.name]
    found = {path: next(samples[key] for key in reversed(samples) if key in path) for path in task.files}
    return {path: content if isinstance(content, bytes) else content.encode() for path, content in found.items()}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_rows_are_read_and_the_recipe_is_valid(task: sources.Task, tmp_path: Path) -> None:
    recipe = load(sources.prepare(task, _files(task), 10, 100, tmp_path))
    splits = recipe_splits(recipe)
    parts = {name: len((tmp_path / "data" / f"{name}.jsonl").read_text().splitlines()) for name in sources.SPLITS}
    assert (len(splits.train), len(splits.valid), len(splits.test)) == tuple(parts.values())
    assert parts["train"] >= 9
    assert parts["valid"] >= 1
    assert parts["test"] >= 1
    assert task.license
    assert all(len(digest) == 64 for digest in task.files.values())
    assert all((task.published.figure, task.published.source, task.published.verified))


def _converted(name: str) -> dict[str, list[sources.Row]]:
    task = sources.load(name)
    return task.convert(_files(task), 10, 100)


def _answers(rows: list[sources.Row]) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows]


def test_spans_are_cut_from_the_text() -> None:
    rows = _converted("restaurants8k")["test"]
    assert '{"people": "8 of us"}' in _answers(rows)
    assert "(The guest was asked for the time.) at 7 pm" in [row["messages"][1]["content"] for row in rows]


def test_attributes_may_contain_commas() -> None:
    assert '{"name": "Inn 3", "eatType": "pub", "near": "The Dome, Hall"}' in _answers(_converted("e2e")["test"])


def test_calculator_annotations_are_removed() -> None:
    assert "It is 4 + 1 = 5.\n#### 5" in _answers(_converted("gsm8k")["test"])


def test_each_intent_has_as_many_rows() -> None:
    answers = _answers(_converted("banking77")["train"])
    assert answers.count("lost_0") == answers.count("lost_1") == 5


def test_the_first_accepted_value_is_the_reference() -> None:
    rows = _converted("bfcl")["train"]
    calls = [row["messages"][-1]["tool_calls"][0]["function"] for row in rows]
    assert all(set(call["arguments"]) == {"seats", "who"} and call["arguments"]["who"] == {"name": "Ann"} for call in calls)
    parameters = rows[0]["tools"][0]["function"]["parameters"]
    assert parameters == {"type": "object", "properties": {"rate": {"type": "number"}}}


def test_held_out_rows_with_a_prompt_of_the_training_rows_are_left_out(tmp_path: Path) -> None:
    """Of a conversation about room 1, of which two turns are trained on, only the third turn is new."""
    task = sources.load("smart_home")
    sources.prepare(task, _files(task), 12, 100, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "data" / "test.jsonl").read_text().splitlines()]
    assert sorted(len(row["messages"]) for row in rows) == [3, 5, 7]


def test_held_out_pairs_have_answers_of_similar_length() -> None:
    (pair,) = _converted("hh_rlhf")["test"]
    assert pair["rejected"].endswith("In a big box.")


def test_held_out_pairs_of_the_same_file_have_other_questions() -> None:
    parts = _converted("hh_rlhf_harmless")
    questions = {name: {pair["chosen"].partition("\n\nAssistant:")[0] for pair in pairs} for name, pairs in parts.items()}
    assert questions["test"]
    assert not questions["test"] & (questions["train"] | questions["valid"])


def test_prompts_are_off_task_prompts_if_all_instructions_can_be_checked(tmp_path: Path) -> None:
    prompts = [
        {"key": 1, "prompt": "Say hello.", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
         "kwargs": [{}, {"relation": "less than", "num_words": 9}]},
        {"key": 2, "prompt": "Say hello in French.", "instruction_id_list": ["language:response_language"], "kwargs": [{"language": "fr"}]},
    ]  # fmt: skip
    rows = sources.load("ifeval").convert({"ifeval": _lines(*prompts).encode()}, 0, 100)["off_task"]
    (tmp_path / "prompts.jsonl").write_text(sources.json_lines(rows))
    (prompt,) = read_prompts(tmp_path / "prompts.jsonl")
    assert prompt.passes("hello to you")
    assert not prompt.passes("hello, you")
    assert not prompt.passes("hello " * 9)


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    content = b"rows"
    task = replace(TASKS[0], files={"a.csv": hashlib.sha256(content).hexdigest()})
    (tmp_path / task.files["a.csv"]).write_bytes(content)
    assert sources.read(task, tmp_path, None) == {"a.csv": content}
    (tmp_path / task.files["a.csv"]).write_bytes(b"others")
    with pytest.raises(ValueError, match="SHA-256"):
        sources.read(task, tmp_path, None)
