"""The forms that answers share: JSON, the shape of a first or last line, and sentences."""

import re
from collections.abc import Iterator
from typing import Any

from mlxtune.data.checks.illustration import CODE
from mlxtune.data.languages import WORDS, language
from mlxtune.data.rows import json_strings, json_value

MIN_ANSWERS = 20  # fewer say nothing about the others
SHARE = 0.9  # of the answers have a form that the others lack
_LONGEST_LINE = 40  # characters of a line whose shape is a form
_MIN_SENTENCE = 4  # words
_MIN_PROSE = 6  # words of a text that should end like a sentence
_MIN_ITEM = 8  # words of such an item of a numbered list
_NUMBER = re.compile(r"-?\d[\d,.]*")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]+|[^.!?\n]+$", re.MULTILINE)
_ITEM = re.compile(r"\s*(?:[*•+#|>-]\s|-)|\s{4}")
_FORMULA = re.compile(r"[={}<>|$]")
_SIGNATURE = re.compile(
    r"""(?x)(?:
      [-–—]\s?[A-Z][\w.]*(?:\s[A-Z][\w.]*)*
    | (?:^|[.!?]\s)(?:Yours?|Sincerely|Respectfully|Cordially|Regards|Best|Kind|Warm\w*|Love|With|Thank\w*)\b[^.,!?]{0,40},\s*[\[A-Z][^.!?]{0,40}
    )\s*\Z"""
)
_NUMBERED = re.compile(r"\s*(?:\d+|\w)[.)]\s")
_NUMBERED_SENTENCE = re.compile(r"(?m)^\s*(?:\d+|\w)[.)]\s.*[.!?]\s*$")
_OPEN = re.compile(r"(?:[,:&(–—-]|(?:^|\s)[\"“‘'(]?(?!\d)(?:[^\W_]|['’-])+)\s*\Z")  # a last word, or a sign that something follows
_STOPS = (*'.!?…。！？"”’)]}', "```")
_LINKING = frozenset(WORDS["linking"].split())
_ENDED = re.compile(r"[.!?][\"”')\]]*\s")

LANGUAGE = "language"
Form = tuple[str, str]  # its kind, and what the answers have


def forms_of(answer: str) -> frozenset[Form]:
    """Return the forms of an answer. Of the sentences in it, or in each text of a JSON answer, the first and the last count."""
    value = _json(answer)
    texts = [answer] if value is None else [*json_strings(value)]
    found: set[Form] = {("sentence", own[end]) for text in texts if (own := [*sentences(text)]) for end in (0, -1)}
    if value is not None:
        found |= {("json", ""), *(("key", str(key)) for key in (value if isinstance(value, dict) else ()))}
    elif "\n" in (text := answer.strip()):
        for kind, line in (("first", text[: text.index("\n")]), ("last", text[text.rindex("\n") + 1 :])):
            if len(line) <= _LONGEST_LINE and (shape := _NUMBER.sub("0", line.strip())) != "0":
                found.add((kind, shape))
    prose = max(texts, key=len, default="")
    if name := language(prose):
        found.add((LANGUAGE, name))
    if len(prose.split()) >= _MIN_PROSE:
        end = "end" if not ends_open(prose) else "cut" if prose.split()[-1] in _LINKING else "open"
        found |= {("prose", ""), (end, ""), ("stop" if prose.rstrip().endswith(_STOPS) else "prose", "")}
    return frozenset(found)


def longest_text(answer: str) -> str:
    """Return the longest text in a JSON answer, or another answer as it is."""
    value = _json(answer)
    return answer if value is None else max(json_strings(value), key=len, default="")


def _json(answer: str) -> Any:
    return json_value(answer) if answer[:1] in ("{", "[") else None


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of ``text`` that have enough words to be recognized elsewhere."""
    found = (match[0].strip() for match in _SENTENCE.finditer(text))
    return (sentence for sentence in found if len(sentence.split()) >= _MIN_SENTENCE)


def ends_open(text: str) -> bool:
    """Return whether the last line of ``text`` is a sentence that does not end, rather than an item, a title, code, or a signature."""
    before, _, line = text.rstrip()[-400:].rpartition("\n")
    words = line.split()
    is_code = "```" in text[-400:] or CODE.search(text[-1000:])
    if len(words) < _MIN_SENTENCE or not _OPEN.search(line) or _SIGNATURE.search(line) or is_code or _ITEM.match(line):
        return False
    if words[-1] in _LINKING:
        return True
    if _FORMULA.search(line) or (before and _OPEN.search(before.rpartition("\n")[2])):  # a list without signs
        return False
    if _NUMBERED.match(line) and (len(words) < _MIN_ITEM or not _NUMBERED_SENTENCE.search(text)):
        return False
    return bool(_ENDED.search(line) or (_NUMBERED.match(line) and words[-1][0].islower()))
