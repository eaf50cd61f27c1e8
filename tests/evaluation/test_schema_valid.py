import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import InputError
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator

SUPPORT = Path(__file__).parents[2] / "data" / "samples" / "support.schema.json"
GOOD = {"category": "order", "priority": "low", "reply": "We have found your parcel.", "needs_human": False}


def judge(schema: SchemaValidator, output: str) -> Score:
    return schema.score(ModelAnswer(output))


@pytest.fixture(scope="module")
def support() -> SchemaValidator:
    return SchemaValidator.read(SUPPORT)


def test_matching_answer_passes(support):
    assert judge(support, json.dumps(GOOD)).passed


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"category": "refund"}, "/category enum"),
        ({"needs_human": "no"}, "/needs_human type"),
        ({"reply": "short"}, "/reply minLength"),
        ({"extra": 1}, "/ additionalProperties"),
    ],
)
def test_failure_kind_is_path_and_keyword(support, change, kind):
    score = judge(support, json.dumps({**GOOD, **change}))
    assert (score.passed, score.kind) == (False, kind)
    assert score.detail


def test_missing_key_is_named(support):
    score = judge(support, json.dumps({key: value for key, value in GOOD.items() if key != "priority"}))
    assert score.kind == "/ required"
    assert "priority" in score.detail


def test_invalid_json_fails(support):
    assert judge(support, "```json\n{}\n```").kind == "not_json"
    assert judge(support, '{"a": NaN}').kind == "not_json"


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000])
def test_numbers_beyond_doubles_are_numbers(number):
    assert judge(SchemaValidator({"type": "number"}), number).passed
    assert "null" not in judge(SchemaValidator({"type": "string"}), number).detail
    for output in (number, f"[{number}]"):
        assert not judge(SchemaValidator({"type": ["null", "array"], "items": {"type": "null"}}), output).passed
    assert judge(SchemaValidator({"maximum": 5}), number).passed == number.startswith("-")


def test_true_is_not_integer_but_one_point_zero_is():
    schema = SchemaValidator({"type": "integer"})
    assert not judge(schema, "true").passed
    assert judge(schema, "1.0").passed


@pytest.mark.parametrize("output", ['"\\ud800"', '{"\\udfff": 1}', '{"a": ["\\ud83d"]}'])
def test_unrepresentable_value_fails_without_raising(output):
    judge(SchemaValidator({}), output)  # a value that no keyword checks may pass or fail
    score = judge(SchemaValidator({"enum": [1, {"a": [1]}], "properties": {"a": {"items": {"minLength": 1}}}}), output)
    assert (score.passed, score.kind) == (False, "not_checkable")


@pytest.mark.parametrize(
    "schema",
    [5, None, "x", [1], {"type": "nonsense"}, {"pattern": "("}, {"$ref": "#/nope"}, {"$ref": "http://example.invalid/s"},
     {"properties": {"a": {"$ref": "other.json"}}}, {"$ref": "file:///etc/passwd"}, {"$schema": "http://example.invalid/draft"}],
)  # fmt: skip
def test_invalid_schema_is_refused(schema):
    with pytest.raises(InputError, match="The schema is invalid"):
        SchemaValidator(schema)


def test_missing_or_broken_schema_file_is_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        SchemaValidator.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        SchemaValidator.read(tmp_path / "bad.json")


def test_internal_references_resolve():
    schema = SchemaValidator({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}})
    assert judge(schema, "[1, 2]").passed
    assert judge(schema, '[1, "2"]').kind == "/* type"


def test_array_indexes_share_kind_and_reason_gives_index():
    schema = SchemaValidator({"items": {"properties": {"price": {"type": "number"}}}})
    score = judge(schema, '[{"price": 1}, {"price": "2"}]')
    assert score.kind == "/*/price type"
    assert score.detail.startswith("/1/price: ")


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
def test_failing_keyword_is_named(schema, output, keyword):
    assert judge(SchemaValidator(schema), output).kind.split()[-1] == keyword


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
def test_hostile_patterns_and_outputs_get_verdict(pattern, wrap):
    output = json.dumps("!" + "a" * 20_000 + "!")
    assert not judge(SchemaValidator(wrap({"pattern": pattern})), output).passed
    judge(SchemaValidator(wrap({"patternProperties": {pattern: False}})), f"{{{output}: 1}}")


def test_pattern_timeout_fails_even_when_negated():
    assert not judge(SchemaValidator({"not": {"pattern": r"(a|aa)+\1$"}}), json.dumps("a" * 3000 + "!")).passed


def test_self_referencing_schema_gets_verdict():
    assert judge(SchemaValidator({"allOf": [{"$ref": "#"}]}), "1").passed
    tree = SchemaValidator({"type": "array", "items": {"$ref": "#"}})
    assert judge(tree, "[" * 500 + "]" * 500).passed
    assert not judge(tree, "[" * 400 + "1" + "]" * 400).passed


def test_remote_references_resolve_only_to_given_documents():
    schema = {"items": {"$ref": "https://example.invalid/n.json"}}
    known = SchemaValidator(schema, {"https://example.invalid/n.json": {"type": "integer"}})
    assert judge(known, "[1]").passed
    assert not judge(known, '["1"]').passed
    with pytest.raises(InputError, match="not fetched"):
        SchemaValidator(schema, {"https://example.invalid/m.json": {}})


_ORACLE = jsonschema.Draft202012Validator(json.loads(SUPPORT.read_text()))


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
def test_agrees_with_reference_implementation(value):
    assert judge(SchemaValidator.read(SUPPORT), json.dumps(value)).passed == _ORACLE.is_valid(value)
