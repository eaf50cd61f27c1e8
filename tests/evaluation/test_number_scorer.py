from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.highlight import failure_span
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.number import find_number, score_number
from mlxtune.recipe import EvaluationSection

BOXED = (
    "18 m²", "18 元", "18 µm", "18 жителей", "\\left(18\\right)", "(18)", "18\\degree", "**18**", "18 \\quad", "\\displaystyle 18",
    "\\underline{18}", "18 (km/h)", "18 kg·m", '"18"', "18-year-old",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
        ("#### 18\n\nQuestion: 4 robes take 12 bolts.", "18"),
        ("So \\boxed{-3.50} it is, in 2 steps.", "-3.50"),
        ("The total is $1,234,567.50.", "1234567.50"),
        ("1,2 and 3,4", "3.4"),
        ("1,2,3", "3"),
        ("16-3", "3"),
        ("(16)-3", "3"),
        ("x = -3%", "-3"),
        ("x = −.5", "-0.5"),
        ("about 12.", "12"),
        ("None.", None),
        ("#### none, not 4 or 5", "4"),
        ("٣", "3"),
        ("٣٫٥", "3.5"),
        ("１，２３４".replace("，", ","), "1234"),
        ("12,34,567.5", "1234567.5"),
        ("1.234.567,5", "1234567.5"),
        ("1.234,5", "1234.5"),
        ("1\u202f234\u202f567,5", "1234567.5"),
        ("1 234.5", "1234.5"),
        ("in 2024 he has 18", "18"),
        ("1'234.50", "1234.5"),
        ("0,125", "0.125"),
        ("1.125", "1.125"),
        ("1/2", "1/2"),
        ("5 1/2 cups", "11/2"),
        ("5½", "11/2"),
        ("5 ½", "11/2"),
        ("⅔", "2/3"),
        ("1⁄2", "1/2"),
        ("-3/4.", "-3/4"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{-\\dfrac12}", "-1/2"),
        ("2.5e10", "25000000000"),
        ("2.5E-3 m", "1/400"),
        ("2.5 × 10^{10}", "25000000000"),
        ("2.5\\times 10^{-3}", "1/400"),
        ("2.5·10¹⁰", "25000000000"),
        ("$2.5 million", "2500000"),
        ("**5**", "5"),
        ("Answer:5", "5"),
        ("5!", "5"),
        ("(10–12)", "12"),
        ("so 2 * 10 = 20", "20"),
        ("9" * 900, "9" * 900),
        ("\\frac{12}{5}", "12/5"),
        ("\\boxed{\\frac{12}{5}}", "12/5"),
        ("\\boxed{\\dfrac{10}{3}}", "10/3"),
        ("\\boxed{\\frac{-1}{3}}", "-1/3"),
        ("-\\tfrac{ 3 }{ 40 }", "-3/40"),
        ("1\\frac{2}{3}", "5/3"),
        ("2.5 E10", "25000000000"),
        ("2.5e 10", "25000000000"),
        ("tra 5 e 10", "10"),
        ("3 ÷ 4", "3/4"),
        ("1\\,234", "1234"),
        ("1{,}234", "1234"),
        ("\\boxed{x = 5}", "5"),
        ("\\boxed{f(2)=5}", "5"),
        *((f"\\boxed{{{text}}}", "18") for text in BOXED),
        ("\\boxed{42\\text{ cm}^2}", "42"),
        ("\\boxed{\\text{42 apples}}", "42"),
        ("\\boxed{5\\,\\mathrm{kg}}", "5"),
        ("\\boxed{45^{\\circ}}", "45"),
        ("\\boxed{\\$5}", "5"),
        ("\\boxed{5\\%}", "5"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{42", "42"),
        ("5 m^2", "5"),
        ("5 m/s^2", "5"),
        ("The answer is 5 **(five)**.", "5"),
        ("5 + 3 is 8", "8"),
        ("$5/day", "5"),
        ("w/5 eggs", "5"),
        ("Its sin is 5", "5"),
        ("5 (from PyPI, by exp(x))", "5"),
        ("836 = 830 (of chat) + 6", "6"),
        ("836 = 830 + 5 and 1", "1"),
        ("#### 18 + tax", "18"),
    ],
)
def test_the_final_number(text, number):
    found = find_number(text)
    assert (found and found.factor) == (number and Fraction(number))
    assert found is None or not found.rest


@pytest.mark.parametrize(
    ("output", "ended", "reference", "kind"),
    [
        ("#### 18 and so on", "length", "18", ""),
        ("16 - 3 = 13, and 18", "length", "18", "cut_off"),
        ("Let us see", "length", "18", "cut_off"),
        ("18 18 18", "loop", "18", "in_a_loop"),
        ("Many.", "stop", "18", "no_number"),
        ("18", "stop", "Many.", "no_reference"),
        ("1/3", "stop", "1/2", "other_number"),
        ("9" * 5000, "stop", "9" * 5000, ""),
        ("9" * 5000, "stop", "9" * 4999 + "8", "other_number"),
    ],
)
def test_a_failure_has_its_class(output, ended, reference, kind):
    """Which numbers are equal is a case of the self-test."""
    score = score_number(ModelAnswer(output, ended, reference))
    assert (score.passed, score.kind) == (not kind, kind)


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 5000, "\\boxed" + "{" * 20_000, "\\boxed{" + "a" * 20_000, "\\boxed{1" + "ab" * 9000 + "^}", "1*(" * 10_000,
     "2*{ " * 10_000, "(1)*" * 8000, "a+" * 20_000, "\\frac{" * 8000, "√" * 20_000, "1 * " * 10_000],
    ids=range(11),
)  # fmt: skip
def test_repetitive_text_is_searched_in_reasonable_time(text):
    assert score_number(ModelAnswer(text, reference="5")).kind in ("other_number", "no_number")


@given(st.text(alphabet="0123,.'/ \u00a0eE^{}√π½²⁻×*\\fracsqt-#:$", max_size=30), st.text(alphabet="12,./ e½", max_size=12))
def test_any_text_gets_a_score(output, reference):
    score = score_number(ModelAnswer(output, "stop", reference))
    assert score.passed or score.kind
    assert score_number(ModelAnswer(output, "stop", output)).kind in ("", "no_reference")


def test_the_wrong_number_is_highlighted():
    contract = Contract(EvaluationSection(correct=["number"]))
    text = "It is 16, so #### 17"
    span = failure_span("correct", ModelAnswer(text, "stop", "18"), contract)
    assert text[slice(*span)] == "17"
    assert failure_span("correct", ModelAnswer("18", "stop", "18"), contract) is None
