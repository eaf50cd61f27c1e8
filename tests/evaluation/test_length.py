from __future__ import annotations

import json

import pytest

from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.length import score_length
from mlxtune.recipe import Length


@pytest.mark.parametrize(
    ("output", "limit", "kind"),
    [
        ("abc", Length(max=3), ""),
        (" abc \n", Length(max=3), ""),
        ("abcd", Length(max=3), "too long"),
        ("ab", Length(min=3), "too short"),
        ("", Length(min=1), "too short"),
        ("x" * 10_000, Length(min=1), ""),
        ("one two  three", Length(max=3, unit="words"), ""),
        ("one two three four", Length(max=3, unit="words"), "too long"),
        ("<think>a long thought</think>abc", Length(max=3), ""),
        ("ééé", Length(max=3), ""),
        (json.dumps({"reply": "abc"}), Length(max=3, at="/reply"), ""),
        (json.dumps({"reply": "abcd"}), Length(max=3, at="/reply"), "too long"),
        ("Sure! " + json.dumps({"reply": "abc"}), Length(max=3, at="/reply"), ""),
        (json.dumps({"reply": 5}), Length(max=3, at="/reply"), "no text"),
        (json.dumps({"other": "abc"}), Length(max=3, at="/reply"), "no text"),
        ("abc", Length(max=3, at="/reply"), "no text"),
        (json.dumps({"parts": ["a", {"b/c": "abcd"}]}), Length(max=3, at="/parts/1/b~1c"), "too long"),
    ],
)
def test_length_scores(output, limit, kind):
    score = score_length(ModelAnswer(output), limit)
    assert (score.passed, score.kind) == (not kind, kind)
    assert bool(score.why) == bool(kind)


def test_answer_in_a_loop_is_longer_than_any_maximum() -> None:
    looping = ModelAnswer("ha ha ha", "loop")
    assert score_length(looping, Length(max=300)).kind == "too long"
    assert score_length(looping, Length(min=2)).passed
