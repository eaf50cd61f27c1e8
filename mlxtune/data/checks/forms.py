"""The forms that answers share: JSON, the shape of a first or last line, and sentences."""

import re
from collections.abc import Iterator
from typing import Any

from mlxtune.data.checks.endings import ending
from mlxtune.data.languages import language
from mlxtune.data.rows import json_strings, json_value

MIN_ANSWERS = 20  # fewer say nothing about the others
SHARE = 0.9  # of the answers have a form that the others lack
_LONGEST_LINE = 40  # characters of a line whose shape is a form
_MIN_SENTENCE = 4  # words
_NUMBER = re.compile(r"-?\d[\d,.]*")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]+|[^.!?\n]+$", re.MULTILINE)

LANGUAGE, ENDING = "language", "ending"
WORD = "last word"  # of an answer that does not end whole
Form = tuple[str, str]  # its kind, and what the answers have


def forms_of(answer: str) -> tuple[frozenset[Form], frozenset[str]]:
    """Return the forms of an answer, and the first and the last sentence in it, or in each text of a JSON answer."""
    value = _json(answer)
    texts = [answer] if value is None else [*json_strings(value)]
    found: set[Form] = set()
    if value is not None:
        found |= {("json", ""), *(("key", str(key)) for key in (value if isinstance(value, dict) else ()))}
    elif "\n" in (text := answer.strip()):
        for kind, line in (("first", text[: text.index("\n")]), ("last", text[text.rindex("\n") + 1 :])):
            if len(line) <= _LONGEST_LINE and (shape := _NUMBER.sub("0", line.strip())) != "0":
                found.add((kind, shape))
    prose = max(texts, key=len, default="")
    if name := language(prose):
        found.add((LANGUAGE, name))
    if end := ending(prose) or (None if value is None else ("whole", "")):
        found |= {(ENDING, end[0])} | ({(WORD, end[1])} if end[0] != "whole" else set())
    return frozenset(found), frozenset(own[end] for text in texts if (own := [*sentences(text)]) for end in (0, -1))


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
