"""Character checks: mojibake, invisible characters, and mixed scripts."""

import re
import unicodedata
from collections.abc import Iterator

from mlxtune.data.checks.base import DROP, Check, CheckFamily, Evidence, Fix, Hit, Span
from mlxtune.data.checks.check_input import CheckInput

family = CheckFamily()
_REPAIR, _CLEAN = Fix("put", "repair", safe=True), Fix("put", "clean them", safe=True)

# ftfy repairs the planted cases as well, but it also changes a genuine "Ã " to "à", is five times slower, and reports no offsets,
# which the evidence and the fix need.
# Matches UTF-8 decoded as Windows-1252: a lead byte's character, then as many continuation bytes as it announces.
_CONTINUATION = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_MOJIBAKE = re.compile(f"(?:[\xc2-\xdf]{_CONTINUATION}|[\xe0-\xef]{_CONTINUATION}{{2}}|[\xf0-\xf4]{_CONTINUATION}{{3}})+|\ufffd+")
# Plausible originals: Western letters and signs, Greek, Cyrillic, punctuation, joiners, currency, arrows, CJK, emoji.
_PLAUSIBLE = re.compile(
    "[\xa0-\u017f\u0370-\u052f\u200c-\u2069\u20ac\u2122\u2190-\u21ff\u2500-\u27bf\u3000-\u30ff\u4e00-\u9fff\ufe0f\U0001f000-\U0001faff]+"
)

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]+"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]+"
)

_LATEX = {"\x07": "\\a", "\x08": "\\b", "\x0b": "\\v", "\x0c": "\\f"}  # commands such as \frac that were read as an escape
_COMMAND = re.compile(
    r"alpha|angle|approx|arc|ast|bar|begin|beta|bf|big|binom|bmod|bold|bot|bullet|flat|forall|frac|vdots|vec|vee|vert|var|vspace"
)

_LETTERS = re.compile(r"[^\W\d_]+")
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "HAN", "KANA", "HANGUL", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "ARMENIAN", "GEORGIAN")
_SCRIPT_OF_NAME = {"CJK": "HAN", "HIRAGANA": "KANA", "KATAKANA": "KANA"} | {name: name for name in _SCRIPTS}
_EAST_ASIAN = {"HAN", "KANA", "HANGUL"}  # Japanese and Korean use several of them
NAMED_LANGUAGE = re.compile(  # a prompt that names a language may be answered in it
    r"(?i)\b(?:translat\w*|russian|ukrainian|bulgarian|serbian|chinese|mandarin|japanese|korean|arabic|persian|hebrew|hindi|thai|armenian|georgian"
    r"|cyrillic|kanji|hiragana|languages?|alphabet|unicode|english|french|german|spanish|farsi|urdu|bengali|turkish|vietnamese|bilingual"
    r"|italian|portuguese|dutch|swedish|danish|norwegian|finnish|polish|czech|greek|latin|malay|indonesian|multilingual|pinyin|lyrics"
    r"|übersetz\w*|englisch\w*|deutsch\w*|französisch\w*|spanisch\w*|tradu\w*|anglais\w*|français\w*|inglés|español|inglese|inglês|vertaal\w*|översätt\w*|engelska?)\b"
    r"|翻[译譯]|[英中日法德韩]文|[英汉日法德韩俄]语|西班牙语"
)
_LOOKALIKES = set("АВЕЅІЈКМНОРСТХУаеіјорсухѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρυ")  # these look like Latin letters


_MOJIBAKE_WORDING = {
    "lost": "A character was lost when the text was decoded.",
    "misread": "UTF-8 was decoded as Windows-1252, so the model would learn garbled characters.",
}


@family.text_check(Check("mojibake", "warn", "rows with mojibake", _MOJIBAKE_WORDING, _REPAIR, illustrates="fence"))
def mojibake(text: str) -> Iterator[Hit]:
    if text.isascii():
        return
    for match in _MOJIBAKE.finditer(text):
        if match[0][0] == "\ufffd":
            yield Hit(*match.span(), reason="lost")
        elif (original := _decode_again(match[0])) is not None:
            yield Hit(*match.span(), original, reason="misread")


def _decode_again(text: str) -> str | None:
    """Return the text that was garbled into ``text``, or ``None`` if that is not plausible."""
    data = bytearray()
    for char in text:
        try:
            data += char.encode("cp1252")
        except UnicodeEncodeError:
            if ord(char) > 0xFF:
                return None
            data.append(ord(char))
    try:
        original = data.decode()
    except UnicodeDecodeError:
        return None
    return original if _PLAUSIBLE.fullmatch(original) else None


_INVISIBLE_WORDING = {
    "escape": "{command} was read as an escape ({characters}).",
    "invisible": "The model would learn invisible characters ({characters}).",
}


@family.text_check(Check("control", "warn", "rows with invisible characters", _INVISIBLE_WORDING, _CLEAN, short="invisible"))
def invisible(text: str) -> Iterator[Hit]:
    if text.isprintable():
        return
    garbled = [match.span() for match in _MOJIBAKE.finditer(text)]  # without a part of it, it could not be repaired
    for match in _INVISIBLE.finditer(text):
        if any(start <= match.start() < end for start, end in garbled):
            continue
        names = ", ".join(f"U+{ord(char):04X}" for char in dict.fromkeys(match[0]))
        is_command = match[0] in _LATEX and _COMMAND.match(_LATEX[match[0]][1] + text[match.end() : match.end() + 8])
        original = _LATEX[match[0]] if is_command else ""
        reason = "escape" if is_command else "invisible"
        yield Hit(*match.span(), original, reason=reason, values={"command": original, "characters": names})


_SCRIPT_WORDING = {
    "lookalikes": "“{word}” mixes scripts that look alike.",
    "three": "The text mixes three scripts.",
    "switch": "The answer switches to the {script} script, which the prompt does not use.",
}


@family.row_check(Check("mixed-script", "warn", "rows that mix scripts", _SCRIPT_WORDING, DROP, short="scripts"))
def mixed_script(row_input: CheckInput) -> Evidence | None:
    """Find a word with lookalike letters, a text in three scripts, or an answer in a script that is new in the conversation."""
    known_scripts: set[str] = set()
    earlier_texts: list[str] = []
    for part in row_input.parts:
        if part.text.isascii():
            known_scripts.add("LATIN")
            earlier_texts.append(part.text)
            continue
        words: dict[str, list[re.Match[str]]] = {}
        for match in _LETTERS.finditer(part.text):
            scripts = _scripts(match[0])
            for script in scripts:
                words.setdefault(script, []).append(match)
            if len(scripts & {"LATIN", "CYRILLIC", "GREEK"}) > 1 and len(match[0]) > 2 and set(match[0]) & _LOOKALIKES:
                return Evidence((_span(part.name, match),), "lookalikes", {"word": match[0]})
        longer = {script: [match for match in matches if len(match[0]) > 1] for script, matches in words.items()}
        families: dict[str, re.Match[str]] = {}
        for script in (script for script, matches in longer.items() if matches and script != "GREEK"):
            families.setdefault("HAN" if script in _EAST_ASIAN else script, words[script][0])
        if len(families) > 2 and not NAMED_LANGUAGE.search(" ".join((*earlier_texts, part.text))):
            return Evidence((_span(part.name, max(families.values(), key=re.Match.start)),), "three")
        new_scripts = [  # Latin and Greek (as symbols) are common with any other, East Asian ones with each other
            script
            for script in longer
            if part.trains
            and script not in known_scripts
            and longer[script]
            and script not in ("GREEK", "LATIN")
            and not (script in _EAST_ASIAN and known_scripts & _EAST_ASIAN)
        ]
        letter_count = sum(len(match[0]) for matches in words.values() for match in matches)
        for script in new_scripts if known_scripts and not NAMED_LANGUAGE.search(" ".join(earlier_texts)) else ():
            if sum(len(match[0]) for match in words[script]) / letter_count < 0.5:
                return Evidence((_span(part.name, longer[script][0]),), "switch", {"script": script.capitalize()})
        earlier_texts.append(part.text)
        known_scripts |= set(words)
    return None


def _span(part: str, match: re.Match[str]) -> Span:
    return Span(part, *match.span(), match[0])


def _scripts(word: str) -> set[str]:
    if word.isascii():
        return {"LATIN"}
    names = (unicodedata.name(char, "").partition(" ")[0] for char in word)
    return {_SCRIPT_OF_NAME[name] for name in names if name in _SCRIPT_OF_NAME}
