"""Validation of advice answer files."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mlxtune.advice.interview import FILE, load_last, parse_answers, read_answers, save_answers, schema
from mlxtune.advice.rules import rules
from mlxtune.core.errors import InputError

GIVEN: dict[str, Any] = {"change": ["style", "format"], "requirements": "rarely", "calls": 20000, "tried": [], "metric": "contract"}


def test_missing_answers_get_defaults():
    values = parse_answers(GIVEN)
    assert values["change"] == frozenset({"format", "style"})
    assert (values["target"], values["access"], values["explain"]) == (95, "everyone", "no")


def test_answers_round_trip_through_disk(tmp_path):
    answers = parse_answers(GIVEN | {"target": 90.5})
    assert load_last(tmp_path) is None
    save_answers(tmp_path, answers)
    assert load_last(tmp_path) == answers
    assert json.loads((tmp_path / FILE).read_text())["change"] == ["format", "style"]


def test_outdated_saved_answers_are_ignored(tmp_path):
    (tmp_path / FILE).write_text('{"purpose": "gold"}')
    assert load_last(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"metrics": "contract"}, "no question named metrics", "Did you mean metric"),
        ({"zzz": 1}, "no question named zzz", "change, requirements"),
        ({"metric": None}, "metric is not answered", "contract"),
        ({"metric": "contrct"}, "metric cannot be contrct", "Did you mean contract"),
        ({"metric": ["contract"]}, "metric cannot be", "Use one of"),
        ({"change": "format"}, "change cannot be format", "Use a list of"),
        ({"change": ["format", "zzzz"]}, "change cannot be zzzz", "Use a list of"),
        ({"calls": -1}, "calls cannot be -1", "from 0"),
        ({"calls": "many"}, "calls cannot be many", "Use a number"),
        ({"calls": True}, "calls cannot be True", "Use a number"),
        ({"calls": float("nan")}, "calls cannot be nan", "Use a number"),
        ({"target": 101}, "target cannot be 101", "from 1 to 100"),
        ({"requirements": "rar\x1b[31mely"}, "requirements cannot be", "rarely"),
    ],
)
def test_invalid_answer_is_refused_with_its_key(change, message, hint):
    with pytest.raises(InputError, match=message) as error:
        parse_answers(GIVEN | change, "a.json")
    assert error.value.message.startswith("a.json: ")
    assert hint in error.value.hint
    assert "\x1b" not in error.value.message + error.value.hint


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_file_without_answers_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        read_answers(tmp_path / "a.json")


def test_schema_agrees_with_validator():
    Draft202012Validator.check_schema(schema())
    says = Draft202012Validator(schema())
    for given in (GIVEN, GIVEN | {"target": 50}, GIVEN | {"change": []}):
        parse_answers(given)
        assert says.is_valid(given)
    for wrong in (
        {"metrics": 1},
        {"metric": "x"},
        {"change": "format"},
        {"change": ["x"]},
        {"calls": -1},
        {"calls": "many"},
        {"target": 0},
    ):
        assert not says.is_valid(GIVEN | wrong)
        with pytest.raises(InputError):
            parse_answers(GIVEN | wrong)
    without = {key: value for key, value in GIVEN.items() if key != "metric"}
    assert not says.is_valid(without)
    with pytest.raises(InputError):
        parse_answers(without)


def test_schema_describes_every_question_and_option():
    properties = schema()["properties"]
    assert list(properties) == [question.key for question in rules().questions]
    for question in rules().questions:
        text = json.dumps(properties[question.key])
        assert question.ask in text
        assert all(json.dumps(meaning)[1:-1] in text for meaning in question.options.values())
