from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.scorers.json_valid import DEPTH, json_valid, parse

SUITE = Path(__file__).parents[3] / "shared" / "data" / "jsontestsuite"
needs_suite = pytest.mark.skipif(not SUITE.is_dir(), reason="the JSON parsing suite is not at ../shared/data/jsontestsuite")


def _suite(kind: str) -> list[Path]:
    return sorted(SUITE.glob(f"{kind}_*.json")) if SUITE.is_dir() else []


def _holds(file: Path) -> bool:
    try:
        return json_valid(file.read_bytes().decode("utf-8")).holds
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
            score = json_valid(file.read_bytes().decode("utf-8", "surrogateescape"))
            assert score.holds or score.kind


@pytest.mark.parametrize(
    ("output", "ended", "kind"),
    [
        ("", "stop", "empty"),
        (" \n", "stop", "empty"),
        ('```json\n{"a": 1}\n```', "stop", "fence"),
        ('Here you go: {"a": 1}', "stop", "prose"),
        ('{"a": 1} Anything else?', "stop", "text after it"),
        ('{"a": 1}{"a": 2}', "stop", "text after it"),
        ('{"a": "cut', "length", "cut off"),
        ('{"a": [1, 2}', "stop", "unbalanced"),
        ('{"a": {"b": 1}', "stop", "unbalanced"),
        ("{'a': 1}", "stop", "quotes or comma"),
        ('{"a": 1,}', "stop", "quotes or comma"),
        ('{"a": "one\ntwo"}', "stop", "control character"),
        ('{"a" 1}', "stop", "syntax"),
        ('{"a": NaN}', "stop", "syntax"),
        ('{"a": -Infinity}', "stop", "syntax"),
        ("[" * 600 + "]" * 600, "stop", "syntax"),
    ],
)
def test_failure_has_its_class_and_a_reason(output, ended, kind):
    score = json_valid(output, ended)
    assert not score.holds
    assert score.kind == kind
    assert score.why


def test_valid_json_holds_even_when_the_limit_was_reached():
    assert json_valid('{"a": 1}', "length").holds


def test_depth_is_limited_and_brackets_in_strings_do_not_count():
    assert json_valid("[" * DEPTH + "]" * DEPTH).holds
    assert not json_valid("[" * (DEPTH + 1) + "]" * (DEPTH + 1)).holds
    assert json_valid(json.dumps("[" * 5000)).holds
    assert json_valid(json.dumps(['"' + "{" * 5000, "\\"])).holds
    assert json_valid(json.dumps([[]] * 2000)).holds


@pytest.mark.parametrize(
    "output",
    ["[" * 200_000, '{"a":' * 100_000, "]" * 100_000 + "[" * 100_000, "1" * 100_000, "-" + "9" * 5000, '"' + "\\" * 99_999],
)
def test_hostile_output_is_scored_and_raises_nothing(output):
    json_valid(output)


def test_unclosed_escapes_take_linear_time():
    start = time.process_time()
    json_valid('"' + '\\"' * 100_000)
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
    score = json_valid(text, ended)
    assert score.holds or (score.kind and score.why)
