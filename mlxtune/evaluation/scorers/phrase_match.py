"""Find a phrase in a text: exactly, normalized, by a regular expression, or approximately.

Regular expressions use the ``regex`` package because it supports timeouts. Python's ``re`` cannot be interrupted, signals work
only in the main thread, and a process per output would take longer than all other scorers combined.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

import regex
from rapidfuzz import fuzz
from rapidfuzz.distance import Indel

from mlxtune.evaluation.scorers.negation import negation_words
from mlxtune.evaluation.scorers.output_text import fold_typography, normalize, strip_emphasis
from mlxtune.recipe import Phrase

TIME_LIMIT = 0.25  # seconds for one pattern on one text
_OCCURRENCES = 20  # maximum number of occurrences to consider in one text
# Some scripts do not separate words by spaces, and Korean attaches particles to words, so that their words have no boundaries.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]"
_EDGE = regex.compile(_WORD, regex.V1)
_LAST_WORD = re.compile(r"\w+(?=\W*\Z)")


class PatternTimeout(Exception):
    """A pattern exceeded the time limit."""


def find_phrase(text: str, phrase: Phrase, fuzzy: bool) -> Iterator[tuple[str, str, str]]:
    """Yield each occurrence of ``phrase`` in ``text`` as ``(before, phrase, after)``, folded.

    Fuzzy phrases match by their words unless ``fuzzy`` is true. Raises ``PatternTimeout``.
    """
    if phrase.match not in ("exact", "regex"):
        text = strip_emphasis(fold_typography(text))
    spans = _spans(text, phrase, fuzzy)
    for _, (start, end) in zip(range(_OCCURRENCES), spans, strict=False):
        yield fold_typography(text[:start]), fold_typography(text[start:end]), fold_typography(text[end:])


def _spans(text: str, phrase: Phrase, fuzzy: bool) -> Iterator[tuple[int, int]]:
    if phrase.match == "exact":
        return (match.span() for match in regex.finditer(regex.escape(phrase.text), text, overlapped=True))
    if phrase.match == "regex":
        return _pattern(text, phrase.text)
    if phrase.match == "fuzzy" and fuzzy:
        return _approximate(text, normalize(phrase.text), phrase.threshold)
    return (match.span() for match in _words_pattern(strip_emphasis(normalize(phrase.text))).finditer(text))


def contains_words(text: str, phrase: str) -> bool:
    """Return whether ``phrase`` occurs in ``text`` as whole words, ignoring case, spacing, and emphasis (``_a_``, ``**a**``)."""
    space = r"\s+" if "\n\n" in fold_typography(phrase.strip()) else r"(?:(?!\n\n)\s)+"  # within a paragraph
    folded, pattern = fold_typography(text), _words_pattern(normalize(phrase), space)
    return bool(pattern.search(folded) or pattern.search(strip_emphasis(folded)))


def truncated_inside(text: str, phrase: Phrase) -> bool:
    """Return whether ``text`` ends inside ``phrase``, at least three words into it."""
    output, words = normalize(text), normalize(phrase.text).split()
    whole = " ".join(words)
    shortest = len(" ".join(words[:3]))
    return any(output.endswith(whole[:length]) for length in range(len(whole) - 1, shortest - 1, -1))


def _pattern(text: str, pattern: str) -> Iterator[tuple[int, int]]:
    try:
        for match in regex.finditer(pattern, text, timeout=TIME_LIMIT):
            if match[0]:
                yield match.span()
    except TimeoutError as error:
        raise PatternTimeout(pattern) from error


@lru_cache(maxsize=256)
def _words_pattern(words: str, space: str = r"\s+") -> regex.Pattern[str]:
    pattern = space.join(map(re.escape, words.split()))
    return regex.compile(rf"{_boundary(words[:1], '<!')}{pattern}{_boundary(words[-1:], '!')}", regex.V1)


def _boundary(edge: str, look: str) -> str:
    """Return a pattern that keeps a phrase from ending inside a longer word."""
    return rf"(?{look}{_WORD})" if _EDGE.match(edge) else ""


def _approximate(text: str, phrase: str, threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the spans whose similarity to ``phrase`` is at least ``threshold`` (100 = identical), best first.

    Spans whose negations differ from the phrase's, and spans that end before the phrase does, are skipped.
    """
    rest = text.replace("\n", " ")
    for _ in range(_OCCURRENCES):
        if len(rest) < len(phrase):
            span = (0, len(rest)) if fuzz.ratio(phrase, rest) >= threshold else None
        else:
            best = fuzz.partial_ratio_alignment(phrase, rest, score_cutoff=threshold)
            span = (best.dest_start, best.dest_end) if best and best.dest_end > best.dest_start else None
        if not span:
            return
        shared = [block for block in Indel.opcodes(phrase, rest[slice(*span)]) if block.tag == "equal"]
        start, end = span[0] + shared[0].dest_start, span[0] + shared[-1].dest_end
        while start > 0 and _EDGE.match(rest[start]) and _EDGE.match(rest[start - 1]):
            start -= 1
        while 0 < end < len(rest) and _EDGE.match(rest[end - 1]) and _EDGE.match(rest[end]):
            end += 1
        window = rest[start:end]
        if negation_words(window) == negation_words(phrase) and not _stops_short(phrase, window, not rest[end:].strip()):
            yield start, end
        rest = rest[: span[0]] + "\x00" * (span[1] - span[0]) + rest[span[1] :]


def _stops_short(phrase: str, window: str, at_end: bool) -> bool:
    """Return whether ``window`` lacks half of the last word of ``phrase``, or its last letter at the end of the text."""
    last = _LAST_WORD.search(phrase)
    if not last:
        return False
    missing = {edit.src_pos for edit in Indel.editops(phrase, window) if edit.tag == "delete"}
    return 2 * len(missing.intersection(range(*last.span()))) >= len(last[0]) or (at_end and last.end() - 1 in missing)
