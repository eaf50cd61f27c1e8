import json
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.data.rows import json_strings
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.json_forms import score_extracted, score_json
from mlxtune.evaluation.scorers.json_parser import DEPTH, find_json, find_syntax_error, parse_json, resolve_pointer

SUITE = Path(__file__).parents[3] / "shared" / "data" / "jsontestsuite"
needs_suite = pytest.mark.skipif(not SUITE.is_dir(), reason="the JSON parsing suite is not at ../shared/data/jsontestsuite")


def raw(output: str, ended: str = "stop") -> Score:
    return score_json(ModelAnswer(output, ended))


def _suite(kind: str) -> list[Path]:
    return sorted(SUITE.glob(f"{kind}_*.json")) if SUITE.is_dir() else []


@needs_suite
def test_first_syntax_error_agrees_with_parser_on_suite():
    for file in (*_suite("y"), *_suite("n"), *_suite("i")):
        text = file.read_bytes().decode("utf-8", "replace")
        if len(text) < 5000:
            score = raw(text)
            is_json = score.passed or score.kind == "number_too_large"  # a limit of the parser, not a fault of the text
            assert (find_syntax_error(text) is None) == is_json


@pytest.mark.parametrize(
    ("output", "ended", "kind"),
    [
        (" \n", "length", "empty"),
        ('```json\n{"a": ', "length", "fence"),
        ("好的", "length", "prose"),
        ('{"a": 1} Anything el', "length", "text_after_it"),
        ('{"a": "cut cut cut', "loop", "in_a_loop"),
        ('{"a": 1e+', "length", "cut_off"),
        ("{'a': 1, 'b", "length", "single_quotes"),
    ],
)
def test_an_output_that_was_cut_off_has_the_class_of_its_first_fault(output, ended, kind):
    """Other outputs are cases of the self-test."""
    score = raw(output, ended)
    assert (score.passed, score.kind, bool(score.detail)) == (False, kind, True)


@pytest.mark.parametrize(
    ("output", "is_final"),
    [
        ("Here you go: ", True),
        ("```json\n{", True),
        ("<think>Hm", True),
        ('{"a": 1}{', True),
        ('{"a": 1} Anything', True),
        ("{'a", True),
        ("[1, tru3", True),
        ("[01", True),
        ("[" * 600, True),
        ("", False),
        ("\n ", False),
        ("tr", False),
        ("-", False),
        ("1.", False),
        ('"a', False),
        ('{"a": "cut', False),
        ('[1, "\\u00', False),
        ("[1e", False),
    ],
)
def test_output_that_cannot_become_json_by_going_on_has_failed_for_good(output, is_final):
    assert raw(output, "length").is_final == is_final


def test_reason_gives_position():
    assert "line 2, column 3" in raw("[1,\n  ,2]").detail


def test_depth_is_limited_ignoring_brackets_in_strings():
    assert raw("[" * DEPTH + "]" * DEPTH).passed
    assert not raw("[" * (DEPTH + 1) + "]" * (DEPTH + 1)).passed
    assert raw(json.dumps("[" * 5000)).passed
    assert raw(json.dumps(['"' + "{" * 5000, "\\"])).passed
    assert raw(json.dumps([[]] * 2000)).passed


def test_unclosed_escapes_take_linear_time():
    start = time.process_time()
    raw('"' + '\\"' * 100_000)
    assert time.process_time() - start < 2  # a backtracking search would take minutes


def test_huge_numbers_keep_their_values():
    assert parse_json("9" * 5000) == Decimal("9" * 5000) != parse_json("9" * 4999 + "8")
    assert parse_json("-" + "9" * 5000) == Decimal("-" + "9" * 5000)
    assert parse_json("1e999") == parse_json("10e998") != parse_json("2e999")
    assert parse_json("-1e999") < 0
    assert raw("1e" + "9" * 30).kind == "number_too_large"
    assert 0 < parse_json("1e-999") < parse_json("2e-999")
    assert parse_json("123456789012345678901234567890") == 123456789012345678901234567890
    assert isinstance(parse_json("1e308"), float)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_any_dumped_value_round_trips(value, indent, ascii_only):
    assert parse_json(json.dumps(value, indent=indent, ensure_ascii=ascii_only)) == value


@given(st.text(alphabet='{}[]",:\\ntrue0-1.eE \n\t\u2028\ud800', max_size=40), st.sampled_from(["stop", "length"]))
def test_any_text_gets_score(text, ended):
    for scorer in (score_json, score_extracted):
        score = scorer(ModelAnswer(text, ended))
        assert score.passed or (score.kind and score.detail)


@given(st.text(alphabet='{}[]",:\\/ntruefalsd0-1.eE+ \n\t\x00\x7f', max_size=30))
def test_syntax_error_and_parser_agree(text):
    try:
        json.loads(text, parse_constant=lambda name: json.loads(""))
    except ValueError:
        assert find_syntax_error(text) is not None
    else:
        assert find_syntax_error(text) is None


@given(VALUES)
def test_truncated_text_is_truncated_or_valid(value):
    text = json.dumps([value])
    assert raw(text, "length").passed
    for length in range(1, len(text)):
        assert raw(text[:length], "length").kind == "cut_off"


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("5", 5),
        ('"{"', "{"),
        ('Sure! {"a": 1} Bye.', {"a": 1}),
        ('```json\n{"a": [1]}\n```', {"a": [1]}),
        ("See [note] and {x}: [1, 2]", [1, 2]),
        ('It\'s 5" long: {"a": "}"}', {"a": "}"}),
        ('Use { to open. {"a": 1}', {"a": 1}),
        ('{"a": 1}{"a": 2}', {"a": 1}),
        ('{"a": 1,} {"b": 2}', {"b": 2}),
    ],
)
def test_extracted_is_first_balanced_json_value(output, value):
    match = find_json(output)
    assert match[0] == value
    assert score_extracted(ModelAnswer(output)).passed


@pytest.mark.parametrize(
    "output", ["", "none", "{", '{"a": {"b": 1}, "c": "cut', "{'a': {'b': 1}}", '{"a": {"b": 1},, "c": 2}', "[1, [2]", "[x]", "]["]
)
def test_fragment_of_broken_value_is_not_extracted(output):
    assert not score_extracted(ModelAnswer(output)).passed


@given(VALUES.filter(lambda value: isinstance(value, dict | list)), st.text(alphabet="ab .\n'", max_size=10), st.booleans())
def test_stricter_rates_imply_looser_ones(value, prose, fence):
    text = json.dumps(value)
    output = f"{prose}```\n{text}\n```" if fence else prose + text
    answer = ModelAnswer(output)
    passes = [scorer(answer).passed for scorer in (score_json, score_extracted)]
    assert passes == sorted(passes)
    assert passes[1]
    assert passes[0] == (not fence and not prose.strip())


def test_pointers_and_strings():
    value = {"a": [{"b/c": "x"}, "y"], "~": "z"}
    assert resolve_pointer(value, "/a/0/b~1c") == "x"
    assert resolve_pointer(value, "/~0") == "z"
    assert resolve_pointer(value, "") == value
    for absent in ("/b", "/a/2", "/a/x", "/a/1/0", "/a/-1", "/a/٣"):
        assert resolve_pointer(value, absent) is None
    assert [*json_strings(value)] == ["x", "y", "z"]


@pytest.mark.parametrize(
    "output",
    ["[" * 200_000, "{" * 50_000, '{"a":' * 50_000, "```\n" * 20_000, "[x" * 20_000, '["' * 20_000, "<think>" * 20_000],
    ids=range(7),
)
def test_hostile_output_gets_every_score(output):
    for scorer in (score_json, score_extracted):
        assert not scorer(ModelAnswer(output)).passed
