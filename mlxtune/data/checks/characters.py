"""Characters that do not belong: text decoded wrongly, signs that no one sees, words in two alphabets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from mlxtune.data.checks.finding import DROP, Fix, Hit, Span, row_check, text_check
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
_EAST = {"HAN", "KANA", "HANGUL"}  # Japanese and Korean use more than one of them
_LANGUAGES = re.compile(  # whoever names one may be answered in it
    r"(?i)\b(?:translat\w*|russian|ukrainian|bulgarian|serbian|chinese|mandarin|japanese|korean|arabic|persian|hebrew|hindi|thai|armenian|georgian"
    r"|cyrillic|kanji|hiragana|languages?|alphabet|unicode)\b"
)
_LOOKALIKES = set("АВЕЅІЈКМНОРСТХУаеіјорсухѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρυ")  # that pass for Latin letters


@text_check("mojibake", "warn", "rows decoded wrongly", Fix("put", "put right", safe=True))
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


@text_check("control", "warn", "rows with signs that are not seen", Fix("put", "take out", safe=True))
def controls(text: str) -> Iterator[Hit]:
    if text.isprintable():
        return
    garbled = [(hit.start, hit.end) for hit in mojibake(text)]
    for match in _CONTROL.finditer(text):
        if any(start <= match.start() < end for start, end in garbled):
            continue  # part of a sign that was decoded wrongly
        names = ", ".join(f"U+{ord(sign):04X}" for sign in dict.fromkeys(match[0]))
        yield Hit(*match.span(), f"It holds {names}, which nobody sees and the model would learn.", "")


@row_check("mixed-script", "warn", "rows that mix alphabets", DROP)
def mixed(look: Look) -> Iterator[tuple[str, tuple[Span, ...]]]:
    """A word with lookalikes of another alphabet, or an answer that falls into an alphabet that nobody used before."""
    asked: set[str] = set()
    told: list[str] = []
    for part in look.parts:
        if part.text.isascii():
            asked.add("LATIN")
            told.append(part.text)
            continue
        words: dict[str, list[re.Match[str]]] = {}
        for match in _LETTERS.finditer(part.text):
            scripts = _scripts(match[0])
            for script in scripts:
                words.setdefault(script, []).append(match)
            if len(scripts & {"LATIN", "CYRILLIC", "GREEK"}) > 1 and len(match[0]) > 2 and set(match[0]) & _LOOKALIKES:
                yield f"“{match[0]}” mixes alphabets that look alike.", (Span(part.name, *match.span(), match[0]),)
                return
        letters = {script: [match for match in matches if len(match[0]) > 1] for script, matches in words.items()}
        families = {"HAN" if script in _EAST else script for script, matches in letters.items() if matches} - {"GREEK"}
        strays = [
            script for script in letters if part.trains and script not in asked and letters[script] and not _kin(script, asked)
        ]
        if len(families) > 2:
            script, why = max(families, key=lambda one: words.get(one, letters[one])[0].start()), "It mixes three alphabets."
            yield why, (_shown(part.name, words[script][0]),)
            return
        for script in strays if asked and not _LANGUAGES.search(" ".join(told)) else ():
            share = sum(len(match[0]) for match in words[script]) / sum(
                len(match[0]) for found in words.values() for match in found
            )
            if share < 0.5:
                why = f"The answer falls into {script.capitalize()} letters, which the prompt has not."
                yield why, (_shown(part.name, letters[script][0]),)
                return
        told.append(part.text)
        asked |= set(words)


def _shown(part: str, match: re.Match[str]) -> Span:
    return Span(part, *match.span(), match[0])


def _kin(script: str, asked: set[str]) -> bool:
    """Whether one writing system uses ``script`` beside one of ``asked``; Latin is everywhere, and Greek a language of signs, too."""
    return script in ("GREEK", "LATIN") or (script in _EAST and bool(asked & _EAST))


def _scripts(word: str) -> set[str]:
    if word.isascii():
        return {"LATIN"}
    return {_BEGINS[name] for sign in word if (name := unicodedata.name(sign, "").partition(" ")[0]) in _BEGINS}
