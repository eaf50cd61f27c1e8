from __future__ import annotations

import json

import pytest

from mlxtune.evaluation.scorers.forbidden import not_forbidden


@pytest.mark.parametrize(
    "output",
    ["Try Northpeak.", "NORTHPEAK", "(northpeak)", "Northpeak's tent", "Ｎｏｒｔｈｐｅａｋ", json.dumps({"reply": "Hello\nNorthpeak is fine"}),
     json.dumps({"reply": "a\tNorthpeak"}), '{"reply": "North\\u0070eak"}', json.dumps({"Northpeak": 1})],
)  # fmt: skip
def test_phrase_is_found_however_it_is_written(output):
    score = not_forbidden(output, ["Northpeak"])
    assert (score.holds, score.kind) == (False, "forbidden")
    assert "Northpeak" in score.why


@pytest.mark.parametrize("output", ["", "Northpeaks", "unNorthpeak", "north peak", "{}"])
def test_other_words_are_no_offence(output):
    assert not_forbidden(output, ["Northpeak"]).holds


def test_phrases_are_plain_text_and_may_hold_signs_and_space():
    assert not not_forbidden("we are #1  in town!", ["#1 in town!"]).holds
    assert not_forbidden("axb", ["a.b"]).holds


def test_nothing_forbidden_holds_always():
    assert not_forbidden("anything", []).holds


def test_any_of_several_phrases_counts():
    assert "Beta" in not_forbidden("the beta shop", ["Alpha", "Beta"]).why
