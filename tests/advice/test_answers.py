"""An answers file: what it may hold, and what is said about one that holds something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mlxtune.advice.answers import FILE, check, keep, last, read, schema
from mlxtune.advice.rules import rules
from mlxtune.core.errors import InputError

GIVEN: dict[str, Any] = {"change": ["style", "format"], "requirements": "rarely", "calls": 20000, "tried": [], "metric": "contract"}


def test_what_is_left_out_has_its_default() -> None:
    values = check(GIVEN).values
    assert values["change"] == frozenset({"format", "style"})
    assert (values["target"], values["access"], values["explain"]) == (95, "everyone", "no")


def test_answers_come_back_as_they_were_kept(tmp_path: Path) -> None:
    answers = check(GIVEN | {"target": 90.5})
    assert last(tmp_path) is None
    keep(tmp_path, answers)
    assert last(tmp_path) == answers
    assert json.loads((tmp_path / FILE).read_text())["change"] == ["format", "style"]


def test_answers_to_other_questions_are_not_taken_for_the_last_ones(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"purpose": "gold"}')
    assert last(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "message", "mend"),
    [
        ({"metrics": "contract"}, "no question metrics", "Did you mean metric"),
        ({"zzz": 1}, "no question zzz", "change, requirements"),
        ({"metric": None}, "metric is not answered", "contract"),
        ({"metric": "contrct"}, "metric cannot be contrct", "Did you mean contract"),
        ({"metric": ["contract"]}, "metric cannot be", "One of"),
        ({"change": "format"}, "change cannot be format", "A list of"),
        ({"change": ["format", "zzzz"]}, "change cannot be zzzz", "A list of"),
        ({"calls": -1}, "calls cannot be -1", "from 0"),
        ({"calls": "many"}, "calls cannot be many", "A number"),
        ({"calls": True}, "calls cannot be True", "A number"),
        ({"calls": float("nan")}, "calls cannot be nan", "A number"),
        ({"target": 101}, "target cannot be 101", "from 1 to 100"),
        ({"requirements": "rar\x1b[31mely"}, "requirements cannot be", "rarely"),
    ],
)
def test_a_wrong_answer_is_refused_by_its_key(change: dict[str, Any], message: str, mend: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        check(GIVEN | change, "a.json")
    assert error.value.message.startswith("a.json: ")
    assert mend in error.value.mend
    assert "\x1b" not in error.value.message + error.value.mend


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_a_file_that_holds_no_answers_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        read(tmp_path / "a.json")


def test_the_schema_says_yes_and_no_as_the_check_does() -> None:
    Draft202012Validator.check_schema(schema())
    says = Draft202012Validator(schema())
    for given in (GIVEN, GIVEN | {"target": 50}, GIVEN | {"change": []}):
        check(given)
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
            check(GIVEN | wrong)
    without = {key: value for key, value in GIVEN.items() if key != "metric"}
    assert not says.is_valid(without)
    with pytest.raises(InputError):
        check(without)


def test_the_schema_describes_every_question_and_every_option() -> None:
    properties = schema()["properties"]
    assert list(properties) == [question.key for question in rules().questions]
    for question in rules().questions:
        text = json.dumps(properties[question.key])
        assert question.ask in text
        assert all(json.dumps(meaning)[1:-1] in text for meaning in question.options.values())
