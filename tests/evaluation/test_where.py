from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import Answer
from mlxtune.evaluation.scorers.schema_valid import Schema
from mlxtune.evaluation.where import locate, span
from mlxtune.recipe import Disclaimer

SCHEMA = Schema(
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
CONTRACT = Contract(SCHEMA, [Disclaimer("General guidance only.")], ["North Peak"], reference=("fields",))


def _marked(metric: str, output: str, *, ended: str = "stop", reference: str | None = None) -> str | None:
    found = span(metric, Answer(output, ended, reference), CONTRACT)
    return None if found is None else output[slice(*found)]


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
def test_the_part_that_fails_the_schema_is_marked(output, marked):
    assert _marked("schema", output) == marked


def test_an_output_that_was_cut_off_is_marked_at_its_end():
    assert _marked("json", '{"priority": "lo', ended="length") == "o"
    assert _marked("json", '{"priority": "low", "items": [1, ', ended="length") == ","


def test_phrases_are_marked_whatever_their_case_and_spaces():
    assert _marked("forbidden", "Try NORTH\n peak!") == "NORTH\n peak"
    assert _marked("forbidden", "Try north\\npeak!") == "north\\npeak"
    assert _marked("disclaimer", "It is not true that this is general guidance only.") == "general guidance only."
    assert _marked("disclaimer", "Close it.") is None
    assert _marked("disclaimer", "General guidance only.") is None


def test_the_first_field_that_the_reference_has_otherwise_is_marked():
    reference = json.dumps({"a/b": 1, "c": {"d": [1, 2]}})
    assert _marked("fields", 'So: {"a/b": 1, "c": {"d": [1, 3]}}', reference=reference) == "3"
    assert _marked("fields", '{"a/b": 1}', reference=reference) is None


def test_of_the_contract_the_first_metric_that_fails_is_marked():
    assert _marked("contract", '{"priority": "North Peak"}') == '"North Peak"'
    assert _marked("contract", '{"priority": "low"}') is None  # a disclaimer is missing, which stands nowhere
    assert _marked("exact", "other") is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_every_part_of_a_json_text_is_found(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    waiting = [((), value)]
    while waiting:
        steps, part = waiting.pop()
        place = locate(text, steps)
        assert place is not None
        assert json.loads(text[slice(*place)]) == part
        if isinstance(part, dict | list):
            waiting += [((*steps, name), item) for name, item in (part.items() if isinstance(part, dict) else enumerate(part))]


def test_a_place_that_is_not_there_is_none():
    assert locate('{"a": 1}', ["b"]) is None
    assert locate("[1]", [3]) is None
    assert locate('{"a": ', ["a"]) is None


@given(st.text(), st.sampled_from(["json", "schema", "forbidden", "disclaimer", "fields", "contract"]))
def test_no_output_makes_the_mark_raise(output, metric):
    found = span(metric, Answer(output, reference='{"a": 1}'), CONTRACT)
    assert found is None or 0 <= found[0] < found[1] <= len(output)
