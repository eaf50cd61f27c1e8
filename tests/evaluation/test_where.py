import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.highlight import failure_span, locate_value
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.recipe import Disclaimer, EvaluationSection

SCHEMA = SchemaValidator(
    {
        "type": "object",
        "required": ["priority"],
        "additionalProperties": False,
        "properties": {
            "priority": {"enum": ["low", "high"]},
            "items": {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}},
        },
    }
)
CONTRACT = Contract(
    EvaluationSection(disclaimers=[Disclaimer("General guidance only.")], forbid=["North Peak"], correct=["fields"]), SCHEMA
)


def _marked(metric: str, output: str, *, ended: str = "stop", reference: str | None = None) -> str | None:
    span = failure_span(metric, ModelAnswer(output, ended, reference), CONTRACT)
    return None if span is None else output[slice(*span)]


@pytest.mark.parametrize(
    ("output", "marked"),
    [
        ('{"priority": "hgih"}', '"hgih"'),
        ('{"priority": "low", "priority": "hgih"}', '"hgih"'),
        ('{"priority": "low", "items": [{"price": 1}, {"price": "2"}]}', '"2"'),
        ('{"priority": "low", "\\u0065xtra": {"a": [1]}}', '"\\u0065xtra"'),
        ('  {"items": [] }  ', "}"),
        ("[1, 2]", "[1, 2]"),
        ('{"priority": "low"}', None),
        ('{"priority": low}', "low"),
        ('{"priority": "low",}', "}"),
        ('{"priority": "low"} Anything else?', "Anything else?"),
        ('Sure: {"priority": "low"}', "Sure:"),
        ('```json\n{"priority": "low"}\n```', "```json"),
        ('<think>Hm.</think>{"priority": "low"}', "<think>Hm.</think>"),
        (" I cannot.\nReally.", "I cannot."),
        ("", None),
        ("   ", None),
    ],
)
def test_part_that_fails_schema_is_highlighted(output, marked):
    assert _marked("schema", output) == marked


def test_truncated_output_is_highlighted_at_end():
    assert _marked("json", '{"priority": "lo', ended="length") == "o"
    assert _marked("json", '{"priority": "low", "items": [1, ', ended="length") == ","


def test_phrases_are_highlighted_ignoring_case_and_spaces():
    assert _marked("forbidden", "Try NORTH\n peak!") == "NORTH\n peak"
    assert _marked("forbidden", "Try north\\npeak!") == "north\\npeak"
    assert _marked("disclaimer", "It is not true that this is general guidance only.") == "general guidance only."
    assert _marked("disclaimer", "Close it.") is None
    assert _marked("disclaimer", "General guidance only.") is None


def test_first_field_differing_from_reference_is_highlighted():
    reference = json.dumps({"a/b": 1, "c": {"d": [1, 2]}})
    assert _marked("correct", 'So: {"a/b": 1, "c": {"d": [1, 3]}}', reference=reference) == "3"
    assert _marked("correct", '{"a/b": 1}', reference=reference) is None


def test_a_field_that_may_differ_is_not_highlighted():
    contract = Contract(EvaluationSection(correct=["/b", "/c"]))
    answer = ModelAnswer('{"a": 1, "b": 2, "c": 3}', reference='{"a": 0, "b": 2, "c": 4}')
    span = failure_span("correct", answer, contract)
    assert answer.output[slice(*span)] == "3"


def test_first_failing_contract_metric_is_highlighted():
    assert _marked("contract", '{"priority": "North Peak"}') == '"North Peak"'
    assert _marked("contract", '{"priority": "low"}') is None  # a missing disclaimer has no location
    assert _marked("correct", "other", reference="{}") is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_every_json_value_has_a_span(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    waiting = [((), value)]
    while waiting:
        steps, part = waiting.pop()
        span = locate_value(text, steps)
        assert json.loads(text[slice(*span)]) == part
        if isinstance(part, dict | list):
            waiting += [((*steps, name), item) for name, item in (part.items() if isinstance(part, dict) else enumerate(part))]


def test_missing_pointer_has_no_span():
    assert locate_value('{"a": 1}', ["b"]) is None
    assert locate_value("[1]", [3]) is None
    assert locate_value('{"a": ', ["a"]) is None


@given(st.text(), st.sampled_from(["json", "schema", "forbidden", "disclaimer", "correct", "contract"]))
def test_highlighting_never_raises(output, metric):
    span = failure_span(metric, ModelAnswer(output, reference='{"a": 1}'), CONTRACT)
    assert span is None or 0 <= span[0] < span[1] <= len(output)
