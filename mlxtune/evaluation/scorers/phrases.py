"""Where a phrase stands in a text: to the letter, normalised, by a regular expression, or nearly.

Regular expressions run on the ``regex`` package, for its ``timeout``: the standard library's cannot be interrupted, a signal
works in the main thread alone, and a process for each output would take longer than all other scorers together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import regex
from rapidfuzz import fuzz
from rapidfuzz.distance import Indel

from mlxtune.evaluation.scorers.said import negators
from mlxtune.evaluation.scorers.words import folded, normalised
from mlxtune.recipe import Phrase

TIME_LIMIT = 0.25  # seconds for one pattern on one text
_PLACES = 20  # places that are looked at in one text
_EDGE = re.compile(r"\w")
_LAST_WORD = re.compile(r"\w+(?=\W*\Z)")


class TooSlow(Exception):
    """A pattern did not end within the time limit."""


def places(text: str, phrase: Phrase, fuzzy: bool) -> Iterator[tuple[str, str, str]]:
    """Each place of ``phrase`` in ``text`` as ``(before, phrase, after)``, folded. A fuzzy phrase is normalised unless ``fuzzy``.

    Raises ``TooSlow``.
    """
    if phrase.match not in ("exact", "regex"):
        text = folded(text)
    spans = _spans(text, phrase, fuzzy)
    for _, (start, end) in zip(range(_PLACES), spans, strict=False):
        yield folded(text[:start]), folded(text[start:end]), folded(text[end:])


def _spans(text: str, phrase: Phrase, fuzzy: bool) -> Iterator[tuple[int, int]]:
    if phrase.match == "exact":
        return _all(text, phrase.text)
    if phrase.match == "regex":
        return _pattern(text, phrase.text)
    if phrase.match == "fuzzy" and fuzzy:
        return _near(text, normalised(phrase.text), phrase.threshold)
    return _words(text, phrase.text)


def ends_inside(text: str, phrase: Phrase) -> bool:
    """Whether ``text`` ends within ``phrase``, three words into it or more: it was cut off there."""
    heard, words = normalised(text), normalised(phrase.text).split()
    whole = " ".join(words)
    shortest = len(" ".join(words[:3]))
    return any(heard.endswith(whole[:length]) for length in range(len(whole) - 1, shortest - 1, -1))


def _all(text: str, phrase: str) -> Iterator[tuple[int, int]]:
    at = text.find(phrase)
    while at >= 0:
        yield at, at + len(phrase)
        at = text.find(phrase, at + 1)


def _pattern(text: str, pattern: str) -> Iterator[tuple[int, int]]:
    try:
        for found in regex.finditer(pattern, text, timeout=TIME_LIMIT):
            if found[0]:
                yield found.span()
    except TimeoutError as error:
        raise TooSlow(pattern) from error


def _words(text: str, phrase: str) -> Iterator[tuple[int, int]]:
    return (found.span() for found in _words_pattern(phrase).finditer(text))


@lru_cache(maxsize=256)
def _words_pattern(phrase: str) -> re.Pattern[str]:
    words = normalised(phrase)
    pattern = r"\s+".join(map(re.escape, words.split()))
    return re.compile(rf"{_bound(words[:1], '<!')}{pattern}{_bound(words[-1:], '!')}")


def _bound(edge: str, way: str) -> str:
    """No word may go on beyond the edge of a phrase that is part of a word."""
    return rf"(?{way}[^\W_])" if _EDGE.match(edge) else ""


def _near(text: str, phrase: str, threshold: float) -> Iterator[tuple[int, int]]:
    """The best places whose similarity to ``phrase`` is at least ``threshold``, a hundred being equal, from best to worst.

    Similar is not the same: a place that denies more or less than the phrase, or that ends before the phrase does, is none.
    """
    left = text.replace("\n", " ")
    for _ in range(_PLACES):
        if len(left) < len(phrase):
            found = (0, len(left)) if fuzz.ratio(phrase, left) >= threshold else None
        else:
            best = fuzz.partial_ratio_alignment(phrase, left, score_cutoff=threshold)
            found = (best.dest_start, best.dest_end) if best and best.dest_end > best.dest_start else None
        if not found:
            return
        start, end = _trimmed(phrase, left, *found)
        while start > 0 and _EDGE.match(left[start]) and _EDGE.match(left[start - 1]):
            start -= 1
        while 0 < end < len(left) and _EDGE.match(left[end - 1]) and _EDGE.match(left[end]):
            end += 1
        window = left[start:end]
        if negators(window) == negators(phrase) and not _stops_short(phrase, window, not left[end:].strip()):
            yield start, end
        left = left[: found[0]] + "\x00" * (found[1] - found[0]) + left[found[1] :]


def _trimmed(phrase: str, text: str, start: int, end: int) -> tuple[int, int]:
    """The place without what stands before the first and after the last character that it shares with ``phrase``."""
    shared = [block for block in Indel.opcodes(phrase, text[start:end]) if block.tag == "equal"]
    return start + shared[0].dest_start, start + shared[-1].dest_end


def _stops_short(phrase: str, window: str, at_end: bool) -> bool:
    """Whether ``window`` lacks half of the last word of ``phrase``, or its last letter where the text ends with ``window``."""
    last = _LAST_WORD.search(phrase)
    if not last:
        return False
    gone = {edit.src_pos for edit in Indel.editops(phrase, window) if edit.tag == "delete"}
    return 2 * len(gone.intersection(range(*last.span()))) >= len(last[0]) or (at_end and last.end() - 1 in gone)
