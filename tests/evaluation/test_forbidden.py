from __future__ import annotations

import json

import pytest

from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.forbidden import score_forbidden


def judge(output: str, phrases: list[str]) -> Score:
    return score_forbidden(ModelAnswer(output), phrases)


@pytest.mark.parametrize(
    "output",
    ["Try Northpeak.", "NORTHPEAK", "(northpeak)", "Northpeak's tent", "Ｎｏｒｔｈｐｅａｋ", json.dumps({"reply": "Hello\nNorthpeak is fine"}),
     "North\u200bpeak", "North\u00adpeak", "```json\n" + json.dumps({"reply": "a\nNorthpeak"}) + "\n```", '{"reply": "a\\nNorth\\u0070eak and',
     "<think>Northpeak is better</think>Hi", json.dumps({"reply": "a\tNorthpeak"}), '{"reply": "North\\u0070eak"}', json.dumps({"Northpeak": 1})],
)  # fmt: skip
def test_phrase_matches_despite_formatting(output):
    score = judge(output, ["Northpeak"])
    assert (score.passed, score.kind) == (False, "forbidden")
    assert "Northpeak" in score.detail


@pytest.mark.parametrize("output", ["", "Northpeaks", "unNorthpeak", "north peak", "{}"])
def test_other_words_do_not_match(output):
    assert judge(output, ["Northpeak"]).passed


def test_phrases_are_literal_text():
    assert not judge("we are #1  in town!", ["#1 in town!"]).passed
    assert judge("axb", ["a.b"]).passed


def test_empty_list_always_passes():
    assert judge("anything", []).passed


def test_any_of_several_phrases_matches():
    assert "Beta" in judge("the beta shop", ["Alpha", "Beta"]).detail
