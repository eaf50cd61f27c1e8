"""Characters that do not belong: text decoded wrongly, signs that no one sees, words in two alphabets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from mlxtune.data.checks.finding import HAND, Fix, Hit, Span, row_check, text_check
from mlxtune.data.checks.look import Look

# UTF-8 that was read as Windows-1252: a lead byte's sign, then as many of continuation bytes as it asks for.
_AFTER = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MOJIBAKE = re.compile(f"(?:[\xc2-\xdf]{_AFTER}|[\xe0-\xef]{_AFTER}{{2}}|[\xf0-\xf4]{_AFTER}{{3}})+|\ufffd+")
# What such text was meant to be: Western letters and signs, Greek, Cyrillic, punctuation, signs of money, arrows, CJK, emoji.
_MEANT = re.compile(
    "[\xa0-\u017f\u0370-\u052f\u2010-\u2044\u20ac\u2122\u2190-\u21ff\u2500-\u27bf\u3000-\u30ff\u4e00-\u9fff\U0001f000-\U0001faff]+"
)

_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]+"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]+"
)

_LETTERS = re.compile(r"[^\W\d_]+")
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "HAN", "KANA", "HANGUL", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "ARMENIAN", "GEORGIAN")
_BEGINS = {"CJK": "HAN", "HIRAGANA": "KANA", "KATAKANA": "KANA"} | {name: name for name in _SCRIPTS}
_LOOKALIKES = set("АВЕЅІЈКМНОРСТХУаеіјорсухѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρυ")  # that pass for Latin letters


@text_check("mojibake", "warn", "rows decoded wrongly", Fix("put", "put back what was meant", safe=True))
def mojibake(text: str) -> Iterator[Hit]:
    if text.isascii():
        return
    for match in _MOJIBAKE.finditer(text):
        if match[0][0] == "\ufffd":
            yield Hit(*match.span(), "A character was lost when the text was decoded.")
        elif (meant := _meant(match[0])) is not None:
            yield Hit(*match.span(), "UTF-8 was read as Windows-1252, and the garbled signs would be learned.", meant)


def _meant(text: str) -> str | None:
    data = bytearray()
    for sign in text:
        try:
            data += sign.encode("cp1252")
        except UnicodeEncodeError:
            if ord(sign) > 0xFF:
                return None
            data.append(ord(sign))
    try:
        meant = data.decode()
    except UnicodeDecodeError:
        return None
    return meant if _MEANT.fullmatch(meant) else None


@text_check("control", "warn", "rows with signs that are not seen", Fix("put", "take them out", safe=True))
def controls(text: str) -> Iterator[Hit]:
    if text.isprintable():
        return
    garbled = [(hit.start, hit.end) for hit in mojibake(text)]
    for match in _CONTROL.finditer(text):
        if any(start <= match.start() < end for start, end in garbled):
            continue  # part of a sign that was decoded wrongly
        names = ", ".join(f"U+{ord(sign):04X}" for sign in dict.fromkeys(match[0]))
        yield Hit(*match.span(), f"It holds {names}, which nobody sees and the model would learn.", "")


@row_check("mixed-script", "warn", "rows that mix alphabets", HAND)
def mixed(look: Look) -> Iterator[tuple[str, tuple[Span, ...]]]:
    """A word with lookalikes of another alphabet, or an answer that falls into an alphabet that nobody used before."""
    asked: set[str] = set()
    for part in look.parts:
        if part.text.isascii():
            asked.add("LATIN")
            continue
        words: dict[str, list[re.Match[str]]] = {}
        for match in _LETTERS.finditer(part.text):
            scripts = _scripts(match[0])
            for script in scripts:
                words.setdefault(script, []).append(match)
            if len(scripts & {"LATIN", "CYRILLIC", "GREEK"}) > 1 and len(match[0]) > 2 and set(match[0]) & _LOOKALIKES:
                yield f"“{match[0]}” mixes alphabets that look alike.", (Span(part.name, *match.span(), match[0]),)
                return
        if part.trains and asked:
            total = sum(len(match[0]) for matches in words.values() for match in matches)
            for script, matches in words.items():
                strays = [match for match in matches if len(match[0]) > 1]
                share = sum(len(match[0]) for match in strays) / max(1, total)
                if script not in asked and not _kin(script, asked) and strays and share < 0.2:
                    first = strays[0]
                    why = f"The answer falls into {script.capitalize()} letters, which the prompt has not."
                    yield why, (Span(part.name, *first.span(), first[0]),)
                    return
        asked |= set(words)


def _kin(script: str, asked: set[str]) -> bool:
    """Whether one writing system uses ``script`` beside one of ``asked``; Greek is also a language of signs."""
    east = {"HAN", "KANA", "HANGUL"}
    return script == "GREEK" or (script in east and bool(asked & east)) or script == "LATIN"


def _scripts(word: str) -> set[str]:
    if word.isascii():
        return {"LATIN"}
    return {_BEGINS[name] for sign in word if (name := unicodedata.name(sign, "").partition(" ")[0]) in _BEGINS}
