"""Final number: the output ends with the same number as the reference, regardless of the wording before it.

As in GSM8K (Cobbe et al., 2021), the number follows ``####``, or it is in LaTeX's ``\\boxed{}``. Without such a mark it is the last
number in the text, as in the *flexible-extract* filter of EleutherAI's lm-evaluation-harness. Units, such as ``%``, are ignored.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, in_words
from mlxtune.evaluation.scorers.output_text import strip_thinking

_MARK = re.compile(r"####|\\boxed\s*\{")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_VARIANTS = dict(zip("−–﹣－٫٬⁄’\u00a0\u2009\u202f", "----.,/'   ", strict=True))
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
_LOWERED = str.maketrans(_RAISED, "0123456789-+", "^*{} ")
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_LONGEST = 1000  # digits, and the largest exponent, of numbers that are computed with
_THOUSANDS = r"[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}"

# 1,234.5 and 12,34,567 · 1 234,5 and 1'234.5 · 1.234,5 and 1.234.567 · 3,5 (but not in 1,2,3) · 3.5 and 3 · .5
_DIGITS = (
    rf"{_THOUSANDS}(?![\d,])(?:\.\d+)?|[1-9]\d{{0,2}}(?P<gap>[ '])\d{{3}}(?:(?P=gap)\d{{3}})*(?!\d)(?:[.,]\d+)?"
    r"|[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,}(?!\d))|(?<!\d,)\d+,\d+(?!,?\d)|\d+(?:\.\d+)?|\.\d+"
)
_NUMBER = re.compile(
    rf"""(?P<sign>(?<![\w)\]])-)?[$€£¥₹]?(?:
        (?:(?P<digits>{_DIGITS})|(?=[¼-¾⅐-⅞]|\\[dt]?frac))
        (?:[ ]?(?P<vulgar>[¼-¾⅐-⅞])|[ ]?\\[dt]?frac\{{?(?P<over>\d+?)\}}?\{{?(?P<under>\d+)\}}?
          |(?:[ ](?P<top>\d+))?[ ]?/[ ]?(?P<bottom>\d+)(?![/.]?\d))?
        (?:e(?P<e>[+-]?\d+)(?!\w)|[ ]?(?:[×x*·]|\\times|\\cdot)[ ]?10(?P<power>[ ]?(?:\^|\*\*)[ ]?\{{?[+-]?\d+|[⁻⁺]?[{_RAISED[:10]}]+))?
        (?:[ ]?(?P<scale>{"|".join(_SCALES)})\b)?
        (?P<rest>[ ]?(?:√|\\sqrt|π|\\pi\b|[{_RAISED}]|(?:\^|\*\*)[\d{{(+-]|[:/]\d)[^\s,;$]*)?
      |(?P<root>(?:√|\\sqrt|π|\\pi\b)[^\s,;$]*))""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class FoundNumber:
    """A number in a text: a factor, what follows it in mathematics, such as a root, and the span of both."""

    factor: Fraction
    rest: str
    span: tuple[int, int]

    def equals(self, other: FoundNumber) -> bool:
        return (self.factor, self.rest) == (other.factor, other.rest)


def find_number(text: str) -> FoundNumber | None:
    """Return the final number in ``text``, or ``None`` if there is none. ``1,200``, ``$1200.00`` and ``1.2 × 10³`` are equal."""
    text = _FOREIGN.sub(_to_ascii, text)
    marks = list(_MARK.finditer(text))
    matches = list(_NUMBER.finditer(text, marks[-1].end() if marks else 0))
    return _read(matches[0 if marks else -1]) if matches else None


def _to_ascii(match: re.Match[str]) -> str:
    """Return a separator, a sign, or a digit of another script in ASCII."""
    digit = unicodedata.decimal(match[0], None)
    return _VARIANTS.get(match[0], match[0]) if digit is None else str(digit)


def _read(match: re.Match[str]) -> FoundNumber:
    digits, rest = match["digits"] or "", match["rest"] or match["root"] or ""
    exponent = _SCALES.get((match["scale"] or "").lower(), 0)
    fraction = match["over"] or match["top"], match["under"] or match["bottom"]
    power = match["e"] or (match["power"] or "0").translate(_LOWERED)
    if max(map(len, (digits, *filter(None, fraction)))) > _LONGEST or len(power) > 4 or int(power) > _LONGEST or fraction[1] == "0":
        return FoundNumber(Fraction(0), match[0], match.span())
    factor = _decimal(digits) if digits else Fraction(bool(match["root"]))
    if match["vulgar"]:
        factor += Fraction(unicodedata.numeric(match["vulgar"])).limit_denominator(10)
    elif fraction[1]:
        factor = factor + Fraction(int(fraction[0]), int(fraction[1])) if fraction[0] else factor / int(fraction[1])
    rest = re.sub(r"[{}() ]", "", rest.replace("\\sqrt", "√").replace("\\pi", "π")).rstrip(".!?:")
    return FoundNumber(factor * Fraction(10) ** (int(power) + exponent) * (-1 if match["sign"] else 1), rest, match.span())


def _decimal(digits: str) -> Fraction:
    digits = re.sub("[ ']", "", digits)
    if digits.rfind(",") > digits.rfind(".") >= 0 or digits.count(".") > 1:
        digits = digits.replace(".", "")
    elif "." in digits or re.fullmatch(_THOUSANDS, digits):
        digits = digits.replace(",", "")
    return Fraction(Decimal(digits.replace(",", ".")))


def score_number(answer: ModelAnswer) -> Score:
    """Score whether the output's final number equals the reference's. Without a mark, an answer that did not end on its own fails."""
    output, reference = strip_thinking(answer.output), answer.reference or ""
    found, expected = find_number(output), find_number(reference)
    if expected is None:
        return Score(False, "no_reference", "the reference contains no number")
    wanted = f"expected {reference[slice(*expected.span)]}"
    if answer.interruption and not _MARK.search(output):
        return Score(False, answer.interruption, f"{in_words(answer.interruption)} before its final number, {wanted}")
    if found is None:
        return Score(False, "no_number", f"contains no number, {wanted}")
    if not found.equals(expected):
        return Score(False, "other_number", f"the final number is {output[slice(*found.span)]}, {wanted}")
    return PASS
