from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.core.errors import InputError
from mlxtune.evaluation.scorers.schema_valid import Schema

SUPPORT = Path(__file__).parents[2] / "data" / "samples" / "support.schema.json"
GOOD = {"category": "order", "priority": "low", "reply": "We have found your parcel.", "needs_human": False}


@pytest.fixture(scope="module")
def support() -> Schema:
    return Schema.read(SUPPORT)


def test_an_answer_that_fits_holds(support):
    assert support.score(json.dumps(GOOD)).holds


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"category": "refund"}, "/category"),
        ({"needs_human": "no"}, "/needs_human"),
        ({"reply": "short"}, "/reply"),
        ({"extra": 1}, "/"),
    ],
)
def test_failure_is_classed_by_its_path(support, change, kind):
    score = support.score(json.dumps({**GOOD, **change}))
    assert (score.holds, score.kind) == (False, kind)
    assert score.why


def test_missing_key_is_named(support):
    score = support.score(json.dumps({key: value for key, value in GOOD.items() if key != "priority"}))
    assert score.kind == "/"
    assert "priority" in score.why


def test_what_is_not_json_cannot_fit(support):
    assert support.score("```json\n{}\n```").kind == "not JSON"
    assert support.score('{"a": NaN}').kind == "not JSON"


def test_formats_are_checked():
    schema = Schema({"type": "string", "format": "email"})
    assert schema.score('"a@example.com"').holds
    assert not schema.score('"not an address"').holds


def test_true_is_no_integer_and_one_point_zero_is():
    schema = Schema({"type": "integer"})
    assert not schema.score("true").holds
    assert schema.score("1.0").holds


@pytest.mark.parametrize("output", ["1e999", "-1e999", "[1e999]", "9" * 5000])
def test_number_too_large_to_hold_is_not_taken_for_null(output):
    assert not Schema({"type": ["null", "array"], "items": {"type": "null"}}).score(output).holds


@pytest.mark.parametrize("output", ['"\\ud800"', '{"\\udfff": 1}', '{"a": ["\\ud83d"]}'])
def test_value_that_no_validator_can_hold_is_refused_and_raises_nothing(output):
    Schema({}).score(output)  # a part that no keyword looks at may hold or not
    score = Schema({"enum": [1, {"a": [1]}], "properties": {"a": {"items": {"minLength": 1}}}}).score(output)
    assert (score.holds, score.kind) == (False, "not checkable")


@pytest.mark.parametrize(
    "schema",
    [5, None, "x", [1], {"type": "nonsense"}, {"pattern": "("}, {"$ref": "#/nope"}, {"$ref": "http://example.invalid/s"},
     {"properties": {"a": {"$ref": "other.json"}}}, {"$ref": "file:///etc/passwd"}, {"$schema": "http://example.invalid/draft"}],
)  # fmt: skip
def test_schema_that_is_none_or_not_whole_is_refused(schema):
    with pytest.raises(InputError, match="The schema cannot be used"):
        Schema(schema)


def test_schema_file_that_is_missing_or_broken_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Schema.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        Schema.read(tmp_path / "bad.json")


def test_references_inside_the_schema_work():
    schema = Schema({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}})
    assert schema.score("[1, 2]").holds
    assert schema.score('[1, "2"]').kind == "/1"


_ORACLE = jsonschema.Draft202012Validator(json.loads(SUPPORT.read_text()))


@settings(max_examples=150)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "category": st.sampled_from(["order", "other", "refund", 1]),
            "priority": st.sampled_from(["low", "high", "urgent", None]),
            "reply": st.text(alphabet="aé😀 ", max_size=30) | st.integers(),
            "needs_human": st.booleans() | st.sampled_from([0, "true"]),
            "extra": st.none(),
        },
    )
    | st.lists(st.integers(), max_size=2)
)
def test_agrees_with_the_reference_implementation(value):
    assert Schema.read(SUPPORT).score(json.dumps(value)).holds == _ORACLE.is_valid(value)
