import json

import pytest

from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.text_rules import score_length
from mlxtune.recipe import Length


@pytest.mark.parametrize(
    ("output", "limit", "kind"),
    [
        ("abc", Length(max=3), ""),
        (" abc \n", Length(max=3), ""),
        ("abcd", Length(max=3), "too_long"),
        ("ab", Length(min=3), "too_short"),
        ("", Length(min=1), "too_short"),
        ("x" * 10_000, Length(min=1), ""),
        ("one two  three", Length(max=3, unit="words"), ""),
        ("one two three four", Length(max=3, unit="words"), "too_long"),
        ("<think>a long thought</think>abc", Length(max=3), ""),
        ("ééé", Length(max=3), ""),
        (json.dumps({"reply": "abc"}), Length(max=3, at="/reply"), ""),
        (json.dumps({"reply": "abcd"}), Length(max=3, at="/reply"), "too_long"),
        ("Sure! " + json.dumps({"reply": "abc"}), Length(max=3, at="/reply"), ""),
        (json.dumps({"reply": 5}), Length(max=3, at="/reply"), "no_text"),
        (json.dumps({"other": "abc"}), Length(max=3, at="/reply"), "no_text"),
        ("abc", Length(max=3, at="/reply"), "no_text"),
        (json.dumps({"parts": ["a", {"b/c": "abcd"}]}), Length(max=3, at="/parts/1/b~1c"), "too_long"),
    ],
)
def test_length_scores(output, limit, kind):
    score = score_length(ModelAnswer(output), limit)
    assert (score.passed, score.kind) == (not kind, kind)
    assert bool(score.detail) == bool(kind)


@pytest.mark.parametrize(("ended", "kind"), [("loop", "in_a_loop"), ("length", "cut_off")])
def test_unfinished_answer_fails_a_maximum(ended, kind):
    unfinished = ModelAnswer("ha ha ha", ended)
    assert score_length(unfinished, Length(max=300)).kind == kind
    assert score_length(unfinished, Length(max=3)).kind == "too_long"
    assert score_length(unfinished, Length(min=2)).passed
