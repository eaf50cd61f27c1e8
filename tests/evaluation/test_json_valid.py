from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.scorers import Answer, Score
from mlxtune.evaluation.scorers.json_extracted import json_extracted
from mlxtune.evaluation.scorers.json_fenced import json_fenced
from mlxtune.evaluation.scorers.json_find import at_pointer, find, strings
from mlxtune.evaluation.scorers.json_ijson import ijson_valid
from mlxtune.evaluation.scorers.json_text import DEPTH, Refused, fault, parse
from mlxtune.evaluation.scorers.json_valid import json_valid

SUITE = Path(__file__).parents[3] / "shared" / "data" / "jsontestsuite"
needs_suite = pytest.mark.skipif(not SUITE.is_dir(), reason="the JSON parsing suite is not at ../shared/data/jsontestsuite")


def raw(output: str, ended: str = "stop") -> Score:
    return json_valid(Answer(output, ended))


def _suite(kind: str) -> list[Path]:
    return sorted(SUITE.glob(f"{kind}_*.json")) if SUITE.is_dir() else []


def _holds(file: Path) -> bool:
    try:
        return raw(file.read_bytes().decode("utf-8")).holds
    except UnicodeDecodeError:
        return False  # an output is text: bytes that are none never get this far


@needs_suite
def test_suite_is_whole():
    assert (len(_suite("y")), len(_suite("n"))) == (95, 188)


@needs_suite
@pytest.mark.parametrize("file", _suite("y"), ids=lambda file: file.stem)
def test_accepts_what_the_suite_accepts(file):
    assert _holds(file)


@needs_suite
@pytest.mark.parametrize("file", _suite("n"), ids=lambda file: file.stem)
def test_refuses_what_the_suite_refuses(file):
    assert not _holds(file)


@needs_suite
@pytest.mark.parametrize("file", _suite("i"), ids=lambda file: file.stem)
def test_decides_on_what_the_suite_leaves_open(file):
    assert _holds(file) in (True, False)


@needs_suite
def test_bytes_that_were_let_through_as_surrogates_raise_nothing():
    for kind in "yni":
        for file in _suite(kind):
            score = raw(file.read_bytes().decode("utf-8", "surrogateescape"))
            assert score.holds or score.kind


@needs_suite
def test_suite_has_a_class_for_every_refusal_and_the_first_fault_agrees_with_the_parser():
    for file in (*_suite("y"), *_suite("n"), *_suite("i")):
        text = file.read_bytes().decode("utf-8", "replace")
        if len(text) < 5000:
            assert (fault(text) is None) == raw(text).holds


@pytest.mark.parametrize(
    ("output", "ended", "kind"),
    [
        ("", "stop", "empty"),
        (" \n", "length", "empty"),
        ('```json\n{"a": 1}\n```', "stop", "fence"),
        ('```json\n{"a": ', "length", "fence"),
        ('Here you go: {"a": 1}', "stop", "prose"),
        ("1. First, open it", "stop", "prose"),
        ("- an item", "stop", "prose"),
        ("5 tents", "stop", "prose"),
        ("true story", "stop", "prose"),
        ("<b>", "stop", "prose"),
        ("好的", "length", "prose"),
        ('<think>so</think>{"a": 1}', "stop", "thinking"),
        ('so</think>{"a": 1}', "stop", "thinking"),
        ('[THINK]so[/THINK]{"a": 1}', "stop", "thinking"),
        ('<|channel|>analysis<|message|>so<|end|>{"a": 1}', "stop", "thinking"),
        ('<reason>so</reason>{"a": 1}', "stop", "thinking"),
        ('{"a": 1} Anything else?', "stop", "text after it"),
        ('{"a": 1}{"a": 2}', "stop", "text after it"),
        ('{"a": 1} Anything el', "length", "text after it"),
        ('{"a": "cut', "length", "cut off"),
        ('{"a": "cut\\', "length", "cut off"),
        ('{"a": "cut\\u00', "length", "cut off"),
        ('{"a": 1', "length", "cut off"),
        ('{"a": -', "length", "cut off"),
        ('{"a": 1.', "length", "cut off"),
        ('{"a": 1e+', "length", "cut off"),
        ('{"a": fals', "length", "cut off"),
        ('{"a": {"b": 1},', "length", "cut off"),
        ("{'a': 1, 'b", "length", "single quotes"),
        ('{"a": "cut', "stop", "unbalanced"),
        ('{"a": [1, 2}', "stop", "unbalanced"),
        ('{"a": {"b": 1}', "stop", "unbalanced"),
        ("[1]]", "stop", "unbalanced"),
        ("]", "stop", "unbalanced"),
        ("{'a': 1}", "stop", "single quotes"),
        ("{\"a\": 'b'}", "stop", "single quotes"),
        ("{“a”: 1}", "stop", "curly quotes"),
        ("{a: 1}", "stop", "unquoted name"),
        ("{1: 1}", "stop", "unquoted name"),
        ('{"a": 1,}', "stop", "trailing comma"),
        ("[1,\n]", "stop", "trailing comma"),
        ("[1,,2]", "stop", "extra comma"),
        ("[,1]", "stop", "extra comma"),
        ("[1 2]", "stop", "missing comma"),
        ('{"a": 1 "b": 2}', "stop", "missing comma"),
        ('{"a" 1}', "stop", "missing colon"),
        ('{"a"}', "stop", "missing colon"),
        ('{"a":}', "stop", "missing value"),
        ('{"a": "one\ntwo"}', "stop", "control character"),
        ('{"a": "one\x00"}', "stop", "control character"),
        ('["\\x41"]', "stop", "bad escape"),
        ('["\\u00g0"]', "stop", "bad escape"),
        ('{"a": NaN}', "stop", "NaN or Infinity"),
        ('{"a": -Infinity}', "stop", "NaN or Infinity"),
        ("[nan]", "stop", "NaN or Infinity"),
        ("NaN", "stop", "NaN or Infinity"),
        ("[True]", "stop", "bad word"),
        ("[None]", "stop", "bad word"),
        ("[nullx]", "stop", "bad word"),
        ("[01]", "stop", "bad number"),
        ("[.5]", "stop", "bad number"),
        ("[0x1f]", "stop", "bad number"),
        ("[１]", "stop", "bad number"),
        ("[1] // one", "stop", "text after it"),
        ("[1, /* two */ 2]", "stop", "comment"),
        ("\ufeff{}", "stop", "byte order mark"),
        ('"\ud800"', "stop", "not UTF-8"),
        ("[" * 600 + "]" * 600, "stop", "too deep"),
        ("[@]", "stop", "syntax"),
    ],
)
def test_failure_has_its_class_and_a_reason(output, ended, kind):
    score = raw(output, ended)
    assert not score.holds
    assert score.kind == kind
    assert score.why


def test_reason_says_where():
    assert "line 2, column 3" in raw("[1,\n  ,2]").why


def test_valid_json_holds_even_when_the_limit_was_reached():
    assert raw('{"a": 1}', "length").holds


def test_depth_is_limited_and_brackets_in_strings_do_not_count():
    assert raw("[" * DEPTH + "]" * DEPTH).holds
    assert not raw("[" * (DEPTH + 1) + "]" * (DEPTH + 1)).holds
    assert raw(json.dumps("[" * 5000)).holds
    assert raw(json.dumps(['"' + "{" * 5000, "\\"])).holds
    assert raw(json.dumps([[]] * 2000)).holds


@pytest.mark.parametrize(
    "output",
    ["[" * 200_000, '{"a":' * 100_000, "]" * 100_000 + "[" * 100_000, "1" * 100_000, "-" + "9" * 5000, '"' + "\\" * 99_999],
)
def test_hostile_output_is_scored_and_raises_nothing(output):
    raw(output)


def test_unclosed_escapes_take_linear_time():
    start = time.process_time()
    raw('"' + '\\"' * 100_000)
    assert time.process_time() - start < 2  # a search that goes back takes minutes


def test_huge_numbers_are_numbers():
    assert parse("9" * 5000) == float("inf")
    assert parse("-" + "9" * 5000) == float("-inf")
    assert parse("123456789012345678901234567890") == 123456789012345678901234567890


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_whatever_a_writer_wrote_is_read_back(value, indent, ascii_only):
    assert parse(json.dumps(value, indent=indent, ensure_ascii=ascii_only)) == value


@given(st.text(alphabet='{}[]",:\\ntrue0-1.eE \n\t\u2028\ud800', max_size=40), st.sampled_from(["stop", "length"]))
def test_any_text_gets_a_score(text, ended):
    for scorer in (json_valid, ijson_valid, json_fenced, json_extracted):
        score = scorer(Answer(text, ended))
        assert score.holds or (score.kind and score.why)


@given(st.text(alphabet='{}[]",:\\/ntruefalsd0-1.eE+ \n\t\x00\x7f', max_size=30))
def test_first_fault_and_parser_agree(text):
    try:
        json.loads(text, parse_constant=lambda name: json.loads(""))
    except ValueError:
        assert fault(text) is not None
    else:
        assert fault(text) is None


@given(VALUES)
def test_a_text_cut_anywhere_is_cut_off_or_valid(value):
    text = json.dumps([value])
    for length in range(1, len(text)):
        assert raw(text[:length], "length").kind == "cut off"


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ('{"a": 1, "b": {"a": 1}}', ""),
        ('{"a": 1, "a": 1}', "duplicate name"),
        ('{"a": 1, "\\u0061": 1}', "duplicate name"),
        ('[{"x": [{"": 1, "": 2}]}]', "duplicate name"),
        ('"\\ud83d\\ude00"', ""),
        ('["\\ud83d"]', "lone surrogate"),
        ('["\\ude00\\ud83d"]', "lone surrogate"),
        ('{"\\ud83d": 1}', "lone surrogate"),
        ('["\\ufffe"]', "noncharacter"),
        ('["\U0010ffff"]', "noncharacter"),
        ("1.7976931348623157e308", ""),
        ("1e400", "number too large"),
        ("[-1e400]", "number too large"),
        ("9" * 308, ""),
        ("9" * 310, "number too large"),
        ("9" * 5000, "number too large"),
        ("1e-400", ""),
        ("{'a': 1}", "single quotes"),
        ("", "empty"),
    ],
)
def test_ijson_also_asks_for_unique_names_characters_and_finite_doubles(output, kind):
    score = ijson_valid(Answer(output))
    assert (score.holds, score.kind) == (not kind, kind)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("```\n{}\n```", ""),
        ("\n```json\n{}\n```\n", ""),
        ("```JSON \r\n{}\r\n```\r\n", ""),
        ("~~~json\n[1]\n~~~", ""),
        ("````\n{}\n````", ""),
        ("```json\n{}\n`````", ""),
        ('```\n{"a": "```"}\n```', ""),
        ("{}", "no fence"),
        ("```{}```", "no fence"),
        ("Here:\n```\n{}\n```", "text before the fence"),
        ("```\n{}\n```\nDone.", "more than a fence"),
        ("```\n{}\n```\n```\n{}\n```", "more than a fence"),
        ("```\n{}", "open fence"),
        ("````\n{}\n```", "open fence"),
        ("```\n{}\n~~~", "open fence"),
        ("```\n```", "empty"),
        ("```\n{'a': 1}\n```", "single quotes"),
    ],
)
def test_fenced_is_one_fence_and_nothing_else_and_never_raw(output, kind):
    score = json_fenced(Answer(output))
    assert score.kind == kind
    assert score.holds == (not kind)
    assert not (score.holds and raw(output).holds)


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
def test_extracted_is_the_first_balanced_value_that_is_json(output, value):
    found = find(output)
    assert found
    assert found[0] == value
    assert json_extracted(Answer(output)).holds


@pytest.mark.parametrize(
    "output", ["", "none", "{", '{"a": {"b": 1}, "c": "cut', "{'a': {'b': 1}}", '{"a": {"b": 1},, "c": 2}', "[1, [2]", "[x]", "]["]
)
def test_a_piece_of_a_broken_value_is_not_the_value(output):
    assert not json_extracted(Answer(output)).holds


@given(VALUES.filter(lambda value: isinstance(value, dict | list)), st.text(alphabet="ab .\n'", max_size=10), st.booleans())
def test_rates_contain_each_other(value, prose, fence):
    text = json.dumps(value)
    output = f"{prose}```\n{text}\n```" if fence else prose + text
    answer = Answer(output)
    held = [scorer(answer).holds for scorer in (ijson_valid, json_valid, json_extracted)]
    assert held == sorted(held)
    assert held[2]
    assert json_fenced(answer).holds == (fence and not prose.strip())
    assert held[1] == (not fence and not prose.strip())


def test_pointers_and_strings():
    value = {"a": [{"b/c": "x"}, "y"], "~": "z"}
    assert at_pointer(value, "/a/0/b~1c") == "x"
    assert at_pointer(value, "/~0") == "z"
    assert at_pointer(value, "") == value
    for absent in ("/b", "/a/2", "/a/x", "/a/1/0", "/a/-1", "/a/٣"):
        assert at_pointer(value, absent) is None
    assert strings(value) == ["x", "y", "z"]


@pytest.mark.parametrize(
    "output",
    ["[" * 200_000, "{" * 50_000, '{"a":' * 50_000, "```\n" * 20_000, "[x" * 20_000, '["' * 20_000, "<think>" * 20_000],
    ids=range(7),
)
def test_hostile_output_has_every_verdict(output):
    for scorer in (json_valid, ijson_valid, json_fenced, json_extracted):
        assert not scorer(Answer(output)).holds


def test_refusals_have_a_class():
    with pytest.raises(Refused) as refused:
        parse("[1,]")
    assert refused.value.kind == "trailing comma"
