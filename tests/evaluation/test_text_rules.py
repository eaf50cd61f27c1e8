"""Rules for any text: its length, a pattern that it matches, and phrases that it must not contain."""

import json

import pytest

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.text_rules import score_forbidden, score_length, score_pattern
from mlxtune.recipe import EvaluationSection, Length

NUMBER = "#### [-$]?[0-9][0-9,.]*$"


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
def test_unfinished_answer_fails_a_maximum_or_an_unmatched_pattern(ended, kind):
    unfinished = ModelAnswer("ha ha ha", ended)
    assert score_length(unfinished, Length(max=300)).kind == kind
    assert score_length(unfinished, Length(max=3)).kind == "too_long"
    assert score_length(unfinished, Length(min=2)).passed
    assert score_pattern(ModelAnswer("2 + 2 = ", ended), NUMBER).kind == kind
    assert score_pattern(ModelAnswer("#### 4", ended), NUMBER).passed


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("2 + 2 = 4\n#### 4", ""),
        ("#### -1,200.50  \n\n", ""),
        ("<think>\nhm\n</think>\n\n#### 4", ""),
        ("#### 4 apples", "no_match"),
        ("#### 4\n\nSo it is 4.", "no_match"),
        ("<think>\n#### 4\n</think>\n\nFour.", "no_match"),
        ("", "no_match"),
    ],
)
def test_pattern_scores(output, kind):
    score = score_pattern(ModelAnswer(output), NUMBER)
    assert (score.passed, score.kind) == (not kind, kind)


def test_an_answer_that_repeats_itself_until_its_limit_is_in_a_loop():
    contract = Contract(EvaluationSection(pattern=NUMBER))
    assert contract.score(ModelAnswer("and so on, " * 40, "length"))["contract"].kind == "in_a_loop"
    assert contract.score(ModelAnswer("Tom has three apples and buys two more, so that he", "length"))["contract"].kind == "cut_off"


def test_a_slow_pattern_fails():
    assert score_pattern(ModelAnswer("a" * 5000), r"(?:a|aa|a\w)+\d$").kind == "pattern_too_slow"


def judge(output: str, phrases: list[str]) -> Score:
    return score_forbidden(ModelAnswer(output), phrases)


@pytest.mark.parametrize(
    "output",
    ["Try Northpeak.", "NORTHPEAK", "(northpeak)", "Northpeak's tent", "Ｎｏｒｔｈｐｅａｋ", json.dumps({"reply": "Hello\nNorthpeak is fine"}),
     "North\u200bpeak", "North\u00adpeak", "```json\n" + json.dumps({"reply": "a\nNorthpeak"}) + "\n```", '{"reply": "a\\nNorth\\u0070eak and',
     "<think>Northpeak is better</think>Hi", json.dumps({"reply": "a\tNorthpeak"}), '{"reply": "North\\u0070eak"}', json.dumps({"Northpeak": 1}),
     "_Northpeak_", "__Northpeak__", "a _Northpeak tent_", "my_northpeak_tent", "**North**peak", "*Northp*eak", json.dumps({"reply": "_Northpeak_"}),
     "用Northpeak的帐篷", "Northpeakのテント", "Northpeak를 사세요"],
)  # fmt: skip
def test_phrase_matches_despite_formatting(output):
    score = judge(output, ["Northpeak"])
    assert (score.passed, score.kind) == (False, "forbidden")
    assert "Northpeak" in score.detail


@pytest.mark.parametrize(
    "output", ["", "Northpeaks", "unNorthpeak", "north peak", "{}", "Northpeaḱs", "Northpeakе", "3Northpeak", "north_peak"]
)
def test_other_words_do_not_match(output):
    assert judge(output, ["Northpeak"]).passed


@pytest.mark.parametrize(
    ("output", "phrase"),
    [("我们推荐北峰帐篷。", "北峰"), ("ノースピークのテント", "ノースピーク"), ("노스피크는 좋다", "노스피크"), ("ซื้อเต็นท์นอร์ทพีคเลย", "นอร์ทพีค"),
     ("мы советуем «Нордпик»", "нордпик"), ("ना _नॉर्थ_ लें", "नॉर्थ"), ("It is **not** safe.", "not safe"), ("***Not** safe*", "not safe")],
)  # fmt: skip
def test_words_are_found_in_scripts_without_spaces_and_in_emphasis(output, phrase):
    assert not judge(output, [phrase]).passed
    assert not judge(json.dumps({"reply": output}), [phrase]).passed


def test_letter_with_another_vowel_sign_is_another_word():
    assert judge("नि", ["न"]).passed


@pytest.mark.parametrize(
    "output",
    ["Safe to use? It is not", json.dumps(["It is not", "safe to use"]), json.dumps({"not": "safe"}), json.dumps({"a": "not", "b": "safe"}),
     json.dumps(["It is not\n", "safe"]), "```json\n" + json.dumps(["not", "safe"]) + "\n```",
     "whether or not\n\nSafe travels", "or **not**\r\n \r\n_Safe_ travels", json.dumps({"a": "or not\n\nSafe travels"}), '{"a": "or not\\n\\nSafe'],
)  # fmt: skip
def test_phrase_does_not_span_separate_texts(output):
    assert judge(output, ["not safe"]).passed


def test_phrase_may_span_lines_and_the_paragraphs_that_it_has():
    assert not judge("It is not\nsafe", ["not safe"]).passed
    assert not judge("It is not  \n  safe", ["not safe"]).passed
    assert not judge("Bye.\n\nYour  Northpeak team", ["bye.\n\nyour northpeak"]).passed


def test_phrases_are_literal_text():
    assert not judge("use **", ["**"]).passed
    assert not judge("call f(*args) or g(*args)", ["f(*args)"]).passed
    assert not judge("we are #1  in town!", ["#1 in town!"]).passed
    assert judge("axb", ["a.b"]).passed


def test_any_of_several_phrases_matches():
    assert "Beta" in judge("the beta shop", ["Alpha", "Beta"]).detail
