"""A first recipe is guessed from a file of rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tiny_model import write_rows

from mlxtune.core.errors import DataError, InputError
from mlxtune.data.column_map import first_records
from mlxtune.data.scaffold import guess, infer_schema, telling_fields, write
from mlxtune.data.source import read_file, read_source
from mlxtune.data.tool_schema import arguments_schema
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.present.data_files import recipe_document
from mlxtune.recipe import load

SAMPLES = Path(__file__).parents[2] / "data" / "samples"


def assert_valid(schema: dict[str, Any], *values: Any) -> None:
    """Check the schema once, and each value."""
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for value in values:
        validator.validate(value)


@pytest.mark.slow
def test_the_sample_shop_gets_its_contract(tmp_path: Path) -> None:
    recipe = load(write(guess(SAMPLES / "support.jsonl"), tmp_path))
    assert (recipe.name, recipe.method.kind, recipe.source.resolve()) == ("support", "sft", (SAMPLES / "support.jsonl").resolve())
    found = {one.text: one.when for one in recipe.evaluation.disclaimers}
    assert found["Safety note: this is general guidance, not training."] == {"category": "safety"}
    assert found["Warranty note: our workshop decides once it has seen your item."] == {"category": "warranty"}
    schema = json.loads((tmp_path / "recipes" / "support.schema.json").read_text())
    assert "warranty" in schema["properties"]["category"]["enum"]
    assert "enum" not in schema["properties"]["reply"]
    assert recipe.evaluation.correct == ["/category", "/priority", "/needs_human"]
    assert_valid(schema, *(json.loads(row.reference) for row in read_file(SAMPLES / "support.jsonl")))  # type: ignore[union-attr, arg-type]
    with pytest.raises(InputError, match="already exists"):
        write(guess(SAMPLES / "support.jsonl"), tmp_path)


def test_calls_are_compared_as_calls(tmp_path: Path) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    turns = [{"role": "user", "content": "Do it."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    for name, row in (("turns", {"messages": turns}), ("text", {"prompt": "Do it.", "completion": json.dumps(call["function"])})):
        recipe = load(write(guess(write_rows(tmp_path / f"{name}.jsonl", [row] * 9)), tmp_path))
        assert recipe.evaluation.correct == ["calls"]


def test_rows_with_tools_get_a_template_a_schema_and_room_for_the_tools(tmp_path: Path) -> None:
    recipe = load(write(guess(SAMPLES / "tool-calls.jsonl"), tmp_path))
    assert (recipe.model.template, recipe.evaluation.correct, recipe.data.max_tokens) == ("chatml-tools", ["calls"], 1024)
    schema = json.loads((tmp_path / "recipes" / "tool-calls.schema.json").read_text())
    assert_valid(schema, *(json.loads(row.reference) for row in read_file(SAMPLES / "tool-calls.jsonl")))  # type: ignore[union-attr, arg-type]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "track_parcel", "arguments": {"order": "LF-48213", "size": "M"}}, schema)


@pytest.mark.parametrize("key", ["arguments", "parameters"])
def test_calls_without_tools_get_a_schema_for_each_function(key: str, tmp_path: Path) -> None:
    calls = [{"name": "lock", key: {"door": "back"}}, {"name": "heat", key: {"to": 70}}] * 5
    rows = [{"question": f"Do {number}.", "answer": json.dumps(call)} for number, call in enumerate(calls)]
    guessed = guess(write_rows(tmp_path / "rows.jsonl", rows))
    assert (guessed.correct, guessed.tools) == (("calls",), False)
    assert_valid(guessed.schema, *calls)  # type: ignore[arg-type]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "lock", key: {"to": 70}}, guessed.schema)  # type: ignore[arg-type]


def test_a_test_file_decides_nothing(tmp_path: Path) -> None:
    for part, kind in (("train", "a"), ("test", "b")):
        write_rows(tmp_path / f"{part}.jsonl", [{"prompt": "Which?", "completion": json.dumps({"kind": kind})}] * 9)
    guessed = guess(tmp_path)
    assert (guessed.rows, guessed.schema and guessed.schema["properties"]["kind"]["enum"]) == (9, ["a"])


def test_parameters_of_xlam_are_a_schema() -> None:
    tool = {
        "name": "sum",
        "parameters": {"of": {"type": "List[int]", "description": "d"}, "to": {"type": "str, optional", "default": ""}},
    }
    assert arguments_schema(tool) == {
        "type": "object", "additionalProperties": False, "required": ["of"],
        "properties": {"of": {"type": "array", "description": "d"}, "to": {"type": "string"}},
    }  # fmt: skip


def test_fields_with_few_values_are_compared() -> None:
    values = [
        {"kind": "ab"[at % 2], "urgent": at == 3, "stars": at % 3, "name": f"n{at}", "v": 1, "in": {"a/b": None if at % 2 else "x"}}
        | ({"rare": True} if at else {})
        for at in range(9)
    ]  # fmt: skip
    assert list(telling_fields(values)) == ["/kind", "/urgent", "/stars", "/in/a~1b"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, ["fields"]), ({"note": "It is booked for {}, thank you."}, ["/area", "/who"])],
    ids=["copied", "free text"],
)
def test_fields_that_are_copied_from_the_prompts_are_compared_and_have_any_value(
    more: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    rows = []
    for at in range(12):
        fields = {"area": "NA"[at % 2], "who": ["Ann", "Bo Day"][at % 2]} | ({"people": at, "at": f"{at} pm"} if at % 3 else {})
        fields |= {name: text.format(at) for name, text in more.items()}
        rows.append(
            {"prompt": f"A table for {at} at {at} pm. My name is {fields['who'].lower()}.", "completion": json.dumps(fields)}
        )
    recipe = load(write(guess(write_rows(tmp_path / "rows.jsonl", rows)), tmp_path))
    assert recipe.evaluation.correct == expected
    properties = json.loads(recipe.path(recipe.evaluation.schema).read_text())["properties"]
    assert properties["area"]["enum"] == ["A", "N"]
    assert properties["who"] == {"type": "string"}


@pytest.mark.parametrize("task", ["Classify as billing, technical, or shipping.", "This is about {}."])
def test_classes_that_prompts_name_are_an_enum_and_numbers_that_none_has_are_not_compared(task: str, tmp_path: Path) -> None:
    classes = ["billing", "shipping", "technical"]
    rows = [
        {
            "prompt": f"{task.format(classes[at % 3])} Message {at}: I need help.",
            "completion": json.dumps({"category": classes[at % 3], "confidence": 0.501 + at / 97, "box": [at / 7]}),
        }
        for at in range(30)
    ]
    guessed = guess(write_rows(tmp_path / "rows.jsonl", rows))
    assert guessed.schema["properties"]["category"] == {"type": "string", "enum": classes}
    assert guessed.correct == ("/category",)


@pytest.mark.parametrize(
    ("answer", "expected", "form"),
    [
        ("4 + 4 = {}\n#### {}", ["number"], "#### NUMBER"),
        ("4 + 4 = {}\n#### -1,{}00.5", ["number"], "#### NUMBER"),
        ("So it is $\\boxed{{{}}}$.", ["number"], "\\boxed{…}"),
        ("The answer is ${}.50.", ["number"], ""),
        ("Half of it.\n-{}", ["number"], ""),
        ("Ask at desk {}.", [], ""),
    ],
)
def test_answers_that_end_with_a_result_are_compared_by_it(answer: str, expected: list[str], form: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number}?", "completion": answer.format(number, number)} for number in range(9)]
    guessed = guess(write_rows(tmp_path / "rows.jsonl", rows))
    recipe = load(write(guessed, tmp_path))
    assert recipe.evaluation.correct == expected
    assert (guessed.number_form, recipe.has_contract) == (form, bool(expected))
    if guessed.number_form:
        scores = [Contract.from_recipe(recipe).score(ModelAnswer(text, reference=rows[1]["completion"])) for text in (rows[1]["completion"], "It is 1.")]  # fmt: skip
        assert [score["contract"].passed for score in scores] == [True, False]


def test_a_classifier_in_a_table_is_mapped(tmp_path: Path) -> None:
    source = tmp_path / "intents.csv"
    source.write_text(
        "text,category\n" + "".join(f"Question {number}?,{'card' if number % 2 else 'cash'}\n" for number in range(20))
    )
    guessed = guess(source)
    assert (guessed.columns.mapping, guessed.labels) == ({"prompt": "text", "completion": "category"}, ("card", "cash"))
    recipe = load(write(guessed, tmp_path))
    assert recipe.evaluation.correct == ["answer"]
    assert len(read_source(recipe.source, recipe.data).rows) == 20


@pytest.mark.parametrize(
    ("row", "method"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "dpo"),
        ({"prompt": "q", "completion": "a", "label": True}, "kto"),
        ({"id": 1, "instruction": "q", "instances": [{"input": "", "output": "a"}]}, "sft"),
    ],
)
def test_the_method_follows_from_the_rows(row: dict[str, Any], method: str, tmp_path: Path) -> None:
    recipe = load(write(guess(write_rows(tmp_path / "my rows.jsonl", [row] * 4)), tmp_path, "mine"))
    assert recipe.method.kind == method


@pytest.mark.parametrize(
    ("answer", "limit"), [("a word " * 120, 512), ("7 " * 400, 1024), ("鍋" * 300, 1024), ("a word " * 4000, 8192)]
)
def test_the_token_limit_fits_the_longest_row(answer: str, limit: int, tmp_path: Path) -> None:
    """Digits and characters outside ASCII need a token each, or more."""
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({"prompt": "Why?", "completion": answer}) + "\n")
    assert guess(source).max_tokens == limit


def test_a_schema_accepts_every_value() -> None:
    values = [{"n": 1, "tags": ["a"]}, {"n": 2.5, "tags": [], "note": None}, {"n": 3, "tags": ["b"], "note": "x"}]
    schema = infer_schema(values)
    assert schema["required"] == ["n", "tags"]
    assert schema["properties"]["n"]["type"] == "number"
    assert_valid(schema, *values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({"n": "1", "tags": []})


def test_a_sentence_after_text_without_a_full_stop_counts(tmp_path: Path) -> None:
    ends = ["It is warm.", "It is cold!", "Choose blue", "77.0°F", 'Say "no"'] * 6
    rows = [
        {"prompt": f"Question {number}?", "completion": f"{number}: {end} This is general information."}
        for number, end in enumerate(ends)
    ]
    found = guess(write_rows(tmp_path / "rows.jsonl", rows))
    assert [(one.text, one.share) for one in found.sentences] == [("This is general information.", 1.0)]
    assert not found.needs_contract
    named = {fact.label: fact.value for fact in recipe_document(found, "rows", with_columns=True)[0].facts}
    assert (named["contract"], named["disclaimers"]) == ("the disclaimers", "1 in every answer they apply to")
    assert len(load(write(found, tmp_path)).evaluation.disclaimers) == 1


def test_common_sentences_are_offered_as_comments(tmp_path: Path) -> None:
    answers = ["It is here. Please write to us again."] * 6 + ["It is not here, sorry."] * 4
    rows = [{"prompt": f"Where is {number}?", "completion": answer} for number, answer in enumerate(answers)]
    recipe = write(guess(write_rows(tmp_path / "rows.jsonl", rows)), tmp_path)
    assert '# text = "Please write to us again."' in recipe.read_text()
    assert load(recipe).evaluation.disclaimers == []


def test_a_field_that_is_the_sentence_itself_is_no_condition(tmp_path: Path) -> None:
    replies = ["We will look into it today.", "It is on our page about orders.", "Please send us the order number."] * 5
    rows = [
        {"prompt": f"Question {number}?", "completion": json.dumps({"reply": reply, "kind": f"kind {number % 2}"})}
        for number, reply in enumerate(replies)
    ]
    assert not [one for one in guess(write_rows(tmp_path / "rows.jsonl", rows)).sentences if one.when]


def test_a_control_character_in_an_answer_is_escaped(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number}?", "completion": "Press the \x7f key to go on."} for number in range(4)]
    (disclaimer,) = load(write(guess(write_rows(tmp_path / "rows.jsonl", rows)), tmp_path)).evaluation.disclaimers
    assert disclaimer.text == "Press the \x7f key to go on."


def test_rows_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no valid rows"):
        guess(write_rows(tmp_path / "rows.jsonl", [{"n": 1}]))
    with pytest.raises(DataError, match="has no rows"):
        first_records(write_rows(tmp_path / "empty.jsonl", []))


def test_columns_whose_names_say_nothing_are_not_guessed(tmp_path: Path) -> None:
    rows = [
        {"id": f"t-{number}", "note": f"Where is parcel {number}?", "body": f"Parcel {number} is in the yard."}
        for number in range(3)
    ]
    source = write_rows(tmp_path / "my rows.jsonl", rows)
    with pytest.raises(DataError, match="do not indicate what the columns contain: id, note, body") as caught:
        guess(source)
    assert caught.value.hint == f"For example: mlxtune init --from '{source}' --map prompt=note,completion=body"
    assert guess(source, {"text": "body"}).formats == {"text": 3}
    with pytest.raises(DataError) as caught:
        guess(write_rows(tmp_path / "notes.jsonl", [{"note": "Where is it?", "n": 1}]))
    assert caught.value.hint.endswith("--map text=note")
    assert guess(write_rows(tmp_path / "texts.jsonl", [{"text": "Where is it?", "n": 1}])).formats == {"text": 1}


def test_a_file_name_cannot_add_lines_to_the_recipe(tmp_path: Path) -> None:
    """A comment in TOML ends at a line break, and allows no control characters."""
    source = write_rows(tmp_path / 'rows\nname = "evil"\x1b.jsonl', [{"prompt": "q", "completion": "a"}] * 3)
    recipe = load(write(guess(source), tmp_path, "mine"))
    assert (recipe.name, recipe.source.resolve()) == ("mine", source.resolve())


@pytest.mark.parametrize("name", ["../x", "a b", "x" * 65])
def test_an_invalid_name_writes_nothing(name: str, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [{"prompt": "q", "completion": "a"}] * 3)
    with pytest.raises(InputError, match="not a valid name"):
        write(guess(source), tmp_path, name)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_free_text_answers_get_examples_of_a_contract_that_can_be_uncommented(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Where is parcel {number}?", "completion": f"Look in yard {number}, row {number * 7}."} for number in range(9)
    ]
    guessed = guess(write_rows(tmp_path / "rows.jsonl", rows))
    file = write(guessed, tmp_path)
    assert not load(file).has_contract
    file.write_text(re.sub(r"^# (?=(forbid|length|schema|disclaimers) =)", "", file.read_text(), flags=re.MULTILINE))
    section = load(file).evaluation
    assert section.forbid
    assert section.length.max
    assert section.schema
    assert section.disclaimers


def test_texts_get_a_window_and_no_evaluation(tmp_path: Path):
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"{index} word " * 3_000}) + "\n" for index in range(20)))
    recipe = write(guess(tmp_path / "texts.jsonl"), tmp_path)
    text = recipe.read_text()
    assert "[evaluation]" not in text
    assert (load(recipe).data.max_tokens, load(recipe).data.holdout) == (1024, 0)
