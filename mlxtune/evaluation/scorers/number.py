"""Final number: the output ends with the same number as the reference, regardless of the wording before it.

As in GSM8K (Cobbe et al., 2021), the number follows ``####``, or it is in LaTeX's ``\\boxed{}``. Without such a mark it is the last
number in the text, as in the *flexible-extract* filter of EleutherAI's lm-evaluation-harness. Units, such as ``%``, are ignored.
Symbols and operations are not computed: ``x+3`` and the root in ``2√3`` are compared as text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, in_words
from mlxtune.evaluation.scorers.output_text import strip_thinking

_MARK = re.compile(r"####|\\boxed\s*(?=\{)")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_VARIANTS = dict(zip("−–﹣－٫٬⁄∕÷⋅’\u00a0\u2009\u202f", "----.,///·'   ", strict=True))
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
_LOWERED = str.maketrans(_RAISED, "0123456789-+", "^*{} ")
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_LONGEST = 1000  # digits, and the largest exponent, of numbers that are computed with
_THOUSANDS = r"[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}"
# What is compared as text: symbols and operations, each followed by a term, which has no spaces outside brackets
_TIMES = r"(?:[×x*·]|\\times|\\cdot)"
_SYMBOL = r"(?:[√∛∜π]|\\?sqrt(?![a-z])|\\pi\b|\\[dtc]?frac|(?:\\|(?=[a-z]{2,3}[({_][^)}]{0,40}\d))(?:log|ln|exp|sin|cos|tan)(?:_\w+)?[ ]?)"
_OPERATOR = (
    rf"(?:(?:\*\*|[+/:]|\^(?!\{{?\\circ)|\\div|{_TIMES})(?=[ ]?[+-]?(?:\.?\d|\(\d|\{{[^}}]|{_SYMBOL}))"
    rf"|[*+^·](?=[a-z]\b)|-(?=[ ]?[\d.]*[ ]?{_SYMBOL}))"
)
_OPERATION = rf"(?:{_OPERATOR}|[ ]{_OPERATOR}[ ])"
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_TERM = rf"(?:{_GROUP}|\([^()\n]*\)|\\[a-z]+|[^\s,;$=(){{}}\\])*"
_SUM = r"\((?:[\d ,.+*/^√π·×-]|(?<![a-z])[a-z](?![a-z]))*\)"
_PART = r"(?:\{[ ]?-?\d+[ ]?\}|[ ]?\d)"  # of a fraction
# What may stand around the only number in a box
_UNIT = r"\\(?:text|math)\w*\{[^{}]*\}(?:\^\{?-?\d\}?)?"
_STYLE = r"\\(?:approx|left|right|q?quad|degree|displaystyle|underline|math\w{2}|bf)(?![a-z])"
_UNITS = re.compile(
    rf"(?i)[*_\"']*\+?(?:{_UNIT}|{_STYLE}|[^\W\d_]{{2,}}+|[a-hj-w]\b|[^\W\d_a-z]|[²³]|\\(?![a-z])|[\s.,:;%$€£¥₹°~≈/·(){{}}\"']"
    rf"|-(?=[^\W\d_]{{2}})|\^\{{?(?:\\circ|\d\}}?$)\}}?)*[*_]*"
)

# 1,234.5 and 12,34,567 · 1 234,5 and 1'234.5 · 1.234,5 and 1.234.567 · 3,5 (but not in 1,2,3) · 3.5 and 3 · .5
_DIGITS = (
    rf"{_THOUSANDS}(?![\d,])(?:\.\d+)?|[1-9]\d{{0,2}}(?P<gap>[ ']|\\,|\{{,\}})\d{{3}}(?:(?P=gap)\d{{3}})*(?!\d)(?:[.,]\d+)?"
    r"|[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,}(?!\d))|(?<!\d,)\d+,\d+(?!,?\d)|\d+(?:\.\d+)?|\.\d+"
)
_NUMBER = re.compile(
    rf"""(?P<sign>(?<![\w)\]])-)?[$€£¥₹]?(?:
        (?:(?P<digits>{_DIGITS})|(?=[¼-¾⅐-⅞]|\\[dtc]?frac{_PART}{_PART}))
        (?:[ ]?(?P<vulgar>[¼-¾⅐-⅞])|[ ]?\\[dtc]?frac(?P<over>{_PART})(?P<under>{_PART})
          |(?:[ ](?P<top>\d+))?[ ]?/[ ]?(?P<bottom>\d+)(?![/.]?\d))?
        (?:(?:e[ ]?|[ ]e)(?P<e>[+-]?\d+)(?!\w)|[ ]?{_TIMES}[ ]?10(?P<power>[ ]?(?:\^|\*\*)[ ]?\{{?[+-]?\d+\}}?|[⁻⁺]?[{_RAISED[:10]}]+))?
        (?:[ ]?(?P<scale>{"|".join(_SCALES)})\b)?
        (?:[ ]?(?:[a-z]+/)?(?:[cdkm]?m|s|h|ft|in|yd|mi|units)\^\{{?-?[1-4]\}}?(?!\w))?
        (?P<rest>(?:[ ]?{_TIMES}?[ ]?(?:{_SYMBOL}|pi\b)|[ ]?[{_RAISED}]|i\b|{_OPERATION}){_TERM}(?:{_OPERATION}{_TERM})*)?
      |(?P<root>(?:{_SYMBOL}|(?:(?<![\w\\])(?:[a-z](?!/)|pi)|{_SUM})(?={_OPERATION})){_TERM}(?:{_OPERATION}{_TERM})*))""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class FoundNumber:
    """A number in a text: a factor, what follows it in mathematics, such as a root, and the span of both."""

    factor: Fraction
    rest: str
    span: tuple[int, int] = field(compare=False)


def find_number(text: str) -> FoundNumber | None:
    """Return the final number in ``text``, or ``None`` if there is none. ``1,200``, ``$1200.00`` and ``1.2 × 10³`` are equal."""
    text = _FOREIGN.sub(_to_ascii, text)
    marks = list(_MARK.finditer(text))
    start, end = (marks[-1].end() if marks else 0), len(text)
    if box := re.compile(_GROUP).match(text, start) if marks else None:
        start, end = max(start, text.rfind("=", start, box.end())) + 1, box.end() - 1
    matches = list(_NUMBER.finditer(text, start, end))
    match = matches[0 if marks else -1] if matches else None
    if match and box and not _UNITS.fullmatch(text[start : match.start()] + text[match.end() : end]):
        return FoundNumber(Fraction(0), _normalize(text[start:end]), (start, end))
    return _read(match) if match else None


def _to_ascii(match: re.Match[str]) -> str:
    """Return a separator, a sign, or a digit of another script in ASCII."""
    digit = unicodedata.decimal(match[0], None)
    return _VARIANTS.get(match[0], match[0]) if digit is None else str(digit)


def _read(match: re.Match[str]) -> FoundNumber:
    digits, rest = match["digits"] or "", _normalize(match["rest"] or match["root"] or "")
    exponent = _SCALES.get((match["scale"] or "").lower(), 0)
    fraction = (match["over"] or match["top"] or "").strip("{} "), (match["under"] or match["bottom"] or "").strip("{} ")
    power = match["e"] or (match["power"] or "0").translate(_LOWERED)
    if max(map(len, (digits, *fraction))) > _LONGEST or len(power) > 4 or int(power) > _LONGEST or not int(fraction[1] or 1):
        return FoundNumber(Fraction(0), match[0], match.span())
    factor = _decimal(digits) if digits else Fraction(bool(match["root"]))
    if match["vulgar"]:
        factor += Fraction(unicodedata.numeric(match["vulgar"])).limit_denominator(10)
    elif fraction[1]:
        factor = factor + Fraction(int(fraction[0]), int(fraction[1])) if fraction[0] else factor / int(fraction[1])
    return FoundNumber(factor * Fraction(10) ** (int(power) + exponent) * (-1 if match["sign"] else 1), rest, match.span())


def _normalize(text: str) -> str:
    """Return an expression with Unicode symbols, and without units, spaces, and brackets around a single part after a root or power."""
    text = re.sub(rf"{_UNIT}|\\(?:left|right)|\\[,;:! ]|\s", "", text).replace("{", "(").replace("}", ")")
    for pattern, new in ((r"\\?sqrt", "√"), (r"\\?pi\b", "π"), (r"\\[dtc]frac", r"\\frac"), (rf"{_TIMES}(?=[√π])", "")):
        text = re.sub(pattern, new, text)
    return re.sub(r"(?<=[√^])\((\w+)\)(?!\w)", r"\1", text).rstrip(".!?:*_`'\"")


def _decimal(digits: str) -> Fraction:
    digits = re.sub(r"[ ']|\\,|\{,\}", "", digits)
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
    if found != expected:
        return Score(False, "other_number", f"the final number is {output[slice(*found.span)]}, {wanted}")
    return PASS
