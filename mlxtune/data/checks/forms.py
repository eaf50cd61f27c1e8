"""The forms that answers share: JSON, the shape of a first or last line, and sentences."""

import re
from collections.abc import Iterator

from mlxtune.data.checks.illustration import CODE
from mlxtune.data.rows import json_strings, json_value

MIN_ANSWERS = 20  # fewer say nothing about the others
SHARE = 0.9  # of the answers have a form that the others lack
_LONGEST_LINE = 40  # characters of a line whose shape is a form
_MIN_SENTENCE = 4  # words
_MIN_PROSE = 6  # words of a text that should end like a sentence
_MIN_ITEM = 8  # words of such an item of a numbered list
_NUMBER = re.compile(r"-?\d[\d,.]*")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]+|[^.!?\n]+$", re.MULTILINE)
_ITEM = re.compile(r"\s*[*•+#|>-]\s|\s{4}|.*[={}<>|$]")
_AUTHOR = re.compile(r"[-–—]\s?[A-Z][\w.]*(?:\s[A-Z][\w.]*)*\s*\Z")
_NUMBERED = re.compile(r"\s*(?:\d+|\w)[.)]\s")
_NUMBERED_SENTENCE = re.compile(r"(?m)^\s*(?:\d+|\w)[.)]\s.*[.!?]\s*$")
_OPEN = re.compile(r"(?:[,:&(–—-]|(?:^|\s)[\"“‘'(]?(?!\d)(?:[^\W_]|['’-])+)\s*\Z")  # a last word, or a sign that something follows
_LINKING = {"a", "an", "and", "as", "at", "by", "for", "from", "in", "is", "of", "or", "that", "the", "to", "with"}  # never last
_ENDED = re.compile(r"[.!?][\"”')\]]*\s")

Form = tuple[str, str]  # its kind, and what the answers have


def forms_of(answer: str) -> frozenset[Form]:
    """Return the forms of an answer. Of the sentences in it, or in each text of a JSON answer, the first and the last count."""
    value = json_value(answer) if answer[:1] in ("{", "[") else None
    texts = [answer] if value is None else [*json_strings(value)]
    found: set[Form] = {("sentence", own[end]) for text in texts if (own := [*sentences(text)]) for end in (0, -1)}
    if value is not None:
        found |= {("json", ""), *(("key", str(key)) for key in (value if isinstance(value, dict) else ()))}
    elif "\n" in (text := answer.strip()):
        for kind, line in (("first", text[: text.index("\n")]), ("last", text[text.rindex("\n") + 1 :])):
            if len(line) <= _LONGEST_LINE and (shape := _NUMBER.sub("0", line.strip())) != "0":
                found.add((kind, shape))
    prose = max(texts, key=len, default="")
    if len(prose.split()) >= _MIN_PROSE:
        found |= {("prose", ""), *([] if ends_open(prose) else [("end", "")])}
    return frozenset(found)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of ``text`` that have enough words to be recognized elsewhere."""
    found = (match[0].strip() for match in _SENTENCE.finditer(text))
    return (sentence for sentence in found if len(sentence.split()) >= _MIN_SENTENCE)


def ends_open(text: str) -> bool:
    """Return whether the last line of ``text`` is a sentence that does not end, rather than an item, a title, code, or a signature."""
    line = text.rstrip()[-400:].rpartition("\n")[2]
    words = line.split()
    if len(words) < _MIN_SENTENCE or _ITEM.match(line) or not _OPEN.search(line) or _AUTHOR.search(line):
        return False
    if _NUMBERED.match(line) and (len(words) < _MIN_ITEM or not _NUMBERED_SENTENCE.search(text)):
        return False
    if "```" in text[-400:] or CODE.search(text[-1000:]):
        return False
    return bool(_ENDED.search(line)) or words[-1] in _LINKING or (bool(_NUMBERED.match(line)) and words[-1][0].islower())
