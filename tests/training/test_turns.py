"""Conversations whose answers are rows of their own: split as one, counted, traceable, and refused with reasons that help."""

import json
from pathlib import Path
from typing import Any

import pytest
from listener import Listener
from loops import write_recipe
from tiny_model import CHATML

from mlxtune.core.errors import DataError, TemplateError
from mlxtune.data.source import read_file
from mlxtune.data.template_notes import TemplateNote
from mlxtune.models.resolve import resolve
from mlxtune.models.template import TemplateSettings, load_template
from mlxtune.recipe import Recipe
from mlxtune.training.encode import encode
from mlxtune.training.setup import prepare

REWRITES = CHATML.replace("{{ message.content }}", "{% if loop.last %}<think></think>{% endif %}{{ message.content }}")
ENDLESS = CHATML.replace("<|im_end|>\n{% endfor %}", "{{ '' if loop.last else '<|im_end|>' }}\n{% endfor %}")


def turns(number: int) -> list[dict[str, Any]]:
    pairs = [(f"Question {number}, {part}?", f"Answer {part}.") for part in range(1 + number % 3)]
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]


def test_answers_of_a_conversation_share_its_split_and_are_counted(tiny, tmp_path):
    given = write_recipe(tmp_path, tiny, [turns(number) for number in range(24)], 2, REWRITES)
    listener = Listener()
    (tmp_path / "run").mkdir()
    prepared = prepare(given, tmp_path / "run", listener)
    train, valid, test = prepared.loop.train, prepared.loop.valid, prepared.base.splits.test
    source = {row.id: row for row in (*prepared.base.splits.train, *prepared.base.splits.valid)}
    for rows, own in ((train, prepared.base.splits.train), (valid, prepared.base.splits.valid)):
        expected = [(row.id, turn) for row in own for turn in range(2, len(row.messages) + 1, 2)]
        assert [(row.id, row.turn or 2) for row in rows] == expected
    assert not {row.id for row in train} & {row.id for row in (*valid, *test)}
    several = sum(len(row.messages) > 2 for row in source.values())
    assert {"note": TemplateNote.TURNS, "rows": several} in [event["values"] for event in listener.of("warning")]
    prepared.loop.run(listener)
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    assert [(row["id"], row.get("turn", 0)) for row in certificate["rows"]] == [(row.id, row.turn) for row in train]
    assert certificate["totals"]["visits"] == 4


def encode_rows(tiny: Path, given: Recipe, *numbers: int) -> None:
    rows = read_file(given.source)
    encode(load_template(resolve(str(tiny)), TemplateSettings.from_recipe(given)), [rows[number] for number in numbers], given)


def test_all_turns_at_once_are_refused_with_what_to_do(tiny, tmp_path):
    given = write_recipe(tmp_path, tiny, [turns(2)] * 9, 2, REWRITES, turns="all")
    with pytest.raises(TemplateError, match="3 of 3 rows cannot be used") as caught:
        encode_rows(tiny, given, 0, 1, 2)
    assert 'data.turns to "auto"' in caught.value.hint


def test_a_template_that_ends_no_answer_is_refused_once(tiny, tmp_path):
    given = write_recipe(tmp_path, tiny, [turns(0)], 2, ENDLESS)
    with pytest.raises(TemplateError) as caught:
        encode_rows(tiny, given, *[0] * 5)
    assert "ends answers without a stop token" in caught.value.message
    assert "rows cannot be used" not in caught.value.message


def test_rows_of_different_kinds_of_errors_are_a_data_error(tiny, tmp_path):
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    rows = [[turns(0)[0], call], [{"role": "user", "content": "x" * 600}, turns(0)[1]]]
    given = write_recipe(tmp_path, tiny, rows, 2, max_tokens=300)
    with pytest.raises(DataError, match="2 of 2 rows cannot be used") as caught:
        encode_rows(tiny, given, 0, 1)
    assert "line 1: the row has tools" in caught.value.message
    assert "line 2: the prompt fills the window" in caught.value.message
