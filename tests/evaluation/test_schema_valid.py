from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.core.errors import InputError
from mlxtune.evaluation.scorers import Answer, Score
from mlxtune.evaluation.scorers.schema_valid import Schema

SUPPORT = Path(__file__).parents[2] / "data" / "samples" / "support.schema.json"
GOOD = {"category": "order", "priority": "low", "reply": "We have found your parcel.", "needs_human": False}


def judge(schema: Schema, output: str) -> Score:
    return schema.score(Answer(output))


@pytest.fixture(scope="module")
def support() -> Schema:
    return Schema.read(SUPPORT)


def test_an_answer_that_fits_holds(support):
    assert judge(support, json.dumps(GOOD)).holds


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"category": "refund"}, "/category enum"),
        ({"needs_human": "no"}, "/needs_human type"),
        ({"reply": "short"}, "/reply minLength"),
        ({"extra": 1}, "/ additionalProperties"),
    ],
)
def test_failure_is_classed_by_its_path_and_keyword(support, change, kind):
    score = judge(support, json.dumps({**GOOD, **change}))
    assert (score.holds, score.kind) == (False, kind)
    assert score.why


def test_missing_key_is_named(support):
    score = judge(support, json.dumps({key: value for key, value in GOOD.items() if key != "priority"}))
    assert score.kind == "/ required"
    assert "priority" in score.why


def test_what_is_not_json_cannot_fit(support):
    assert judge(support, "```json\n{}\n```").kind == "not JSON"
    assert judge(support, '{"a": NaN}').kind == "not JSON"


def test_formats_are_checked():
    schema = Schema({"type": "string", "format": "email"})
    assert judge(schema, '"a@example.com"').holds
    assert not judge(schema, '"not an address"').holds


def test_true_is_no_integer_and_one_point_zero_is():
    schema = Schema({"type": "integer"})
    assert not judge(schema, "true").holds
    assert judge(schema, "1.0").holds


@pytest.mark.parametrize("output", ["1e999", "-1e999", "[1e999]", "9" * 5000])
def test_number_too_large_to_hold_is_not_taken_for_null(output):
    assert not judge(Schema({"type": ["null", "array"], "items": {"type": "null"}}), output).holds


@pytest.mark.parametrize("output", ['"\\ud800"', '{"\\udfff": 1}', '{"a": ["\\ud83d"]}'])
def test_value_that_no_validator_can_hold_is_refused_and_raises_nothing(output):
    judge(Schema({}), output)  # a part that no keyword looks at may hold or not
    score = judge(Schema({"enum": [1, {"a": [1]}], "properties": {"a": {"items": {"minLength": 1}}}}), output)
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
    assert judge(schema, "[1, 2]").holds
    assert judge(schema, '[1, "2"]').kind == "/* type"


def test_places_in_arrays_are_one_class_and_the_reason_says_which():
    schema = Schema({"items": {"properties": {"price": {"type": "number"}}}})
    score = judge(schema, '[{"price": 1}, {"price": "2"}]')
    assert score.kind == "/*/price type"
    assert score.why.startswith("/1/price: ")


@pytest.mark.parametrize(
    ("schema", "output", "keyword"),
    [
        ({"oneOf": [{}, {"type": "integer"}]}, "1", "oneOf"),
        ({"anyOf": [{"type": "string"}]}, "1", "anyOf"),
        ({"not": {}}, "1", "not"),
        ({"dependentRequired": {"a": ["b"]}}, '{"a": 1}', "required"),
        ({"unevaluatedProperties": False}, '{"a": 1}', "unevaluatedProperties"),
        ({"prefixItems": [True], "items": False}, "[1, 2]", "falseSchema"),
        ({"format": "date-time"}, '"yesterday"', "format"),
        ({"propertyNames": {"pattern": "^a"}}, '{"b": 1}', "propertyNames"),
    ],
)
def test_keyword_is_named(schema, output, keyword):
    assert judge(Schema(schema), output).kind.split()[-1] == keyword


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$",
        "^(a|aa)+$",
        "^(([a-z])+.)+[A-Z]([a-z])+$",
        r"(a|aa)+\1$",
        "^(?:(?!x)a|aa)+$",
        r"(.*)*\1x",
        "^(?=a)(a+)+b$",
        "(a?){60}a{60}b",
    ],
    ids=range(8),
)
@pytest.mark.parametrize(
    "wrap", [lambda schema: schema, lambda schema: {"allOf": [schema]}, lambda schema: {"anyOf": [schema]}], ids=range(3)
)
def test_hostile_patterns_and_outputs_have_a_verdict(pattern, wrap):
    output = json.dumps("!" + "a" * 20_000 + "!")
    assert not judge(Schema(wrap({"pattern": pattern})), output).holds
    judge(Schema(wrap({"patternProperties": {pattern: False}})), f"{{{output}: 1}}")


def test_pattern_that_gives_up_is_a_failure_also_where_it_must_not_match():
    assert not judge(Schema({"not": {"pattern": r"(a|aa)+\1$"}}), json.dumps("a" * 3000 + "!")).holds


def test_schema_that_refers_to_itself_has_a_verdict():
    assert judge(Schema({"allOf": [{"$ref": "#"}]}), "1").holds
    tree = Schema({"type": "array", "items": {"$ref": "#"}})
    assert judge(tree, "[" * 500 + "]" * 500).holds
    assert not judge(tree, "[" * 400 + "1" + "]" * 400).holds


def test_other_documents_are_those_that_were_given_and_none_is_fetched():
    schema = {"items": {"$ref": "https://example.invalid/n.json"}}
    known = Schema(schema, {"https://example.invalid/n.json": {"type": "integer"}})
    assert judge(known, "[1]").holds
    assert not judge(known, '["1"]').holds
    with pytest.raises(InputError, match="not fetched"):
        Schema(schema, {"https://example.invalid/m.json": {}})


def test_a_file_that_is_there_is_not_read_either(tmp_path):
    (tmp_path / "n.json").write_text("{}")
    for address in (f"file://{tmp_path}/n.json", str(tmp_path / "n.json"), "n.json"):
        with pytest.raises(InputError, match="cannot be used"):
            Schema({"$ref": address})


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
    assert judge(Schema.read(SUPPORT), json.dumps(value)).holds == _ORACLE.is_valid(value)
