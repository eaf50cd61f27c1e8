from __future__ import annotations

import json

import pytest

from mlxtune.evaluation.scorers import Answer, Score
from mlxtune.evaluation.scorers.forbidden import not_forbidden


def judge(output: str, phrases: list[str]) -> Score:
    return not_forbidden(Answer(output), phrases)


@pytest.mark.parametrize(
    "output",
    ["Try Northpeak.", "NORTHPEAK", "(northpeak)", "Northpeak's tent", "Ｎｏｒｔｈｐｅａｋ", json.dumps({"reply": "Hello\nNorthpeak is fine"}),
     "North\u200bpeak", "North\u00adpeak", "```json\n" + json.dumps({"reply": "a\nNorthpeak"}) + "\n```", '{"reply": "a\\nNorth\\u0070eak and',
     "<think>Northpeak is better</think>Hi", json.dumps({"reply": "a\tNorthpeak"}), '{"reply": "North\\u0070eak"}', json.dumps({"Northpeak": 1})],
)  # fmt: skip
def test_phrase_is_found_however_it_is_written(output):
    score = judge(output, ["Northpeak"])
    assert (score.holds, score.kind) == (False, "forbidden")
    assert "Northpeak" in score.why


@pytest.mark.parametrize("output", ["", "Northpeaks", "unNorthpeak", "north peak", "{}"])
def test_other_words_are_no_offence(output):
    assert judge(output, ["Northpeak"]).holds


def test_phrases_are_plain_text_and_may_hold_signs_and_space():
    assert not judge("we are #1  in town!", ["#1 in town!"]).holds
    assert judge("axb", ["a.b"]).holds


def test_nothing_forbidden_holds_always():
    assert judge("anything", []).holds


def test_any_of_several_phrases_counts():
    assert "Beta" in judge("the beta shop", ["Alpha", "Beta"]).why
