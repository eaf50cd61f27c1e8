"""Recognize the language of a text by its script or, in Latin letters, by its most frequent words.

py3langid knows more languages, but takes 0.6 s to load and reads 1 MB a second; lingua is a download of 170 MB.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from mlxtune.data.checks.illustration import FENCE

WORDS: Mapping[str, Any] = tomllib.loads(files("mlxtune.data").joinpath("words.toml").read_text("utf-8"))
_WORDS: Mapping[str, str] = WORDS["frequent"]
_LANGUAGES_OF = {
    word: [name for name, words in _WORDS.items() if word in words.split()] for word in " ".join(_WORDS.values()).split()
}
FREQUENT_WORDS = frozenset(_LANGUAGES_OF)
SCRIPTS = {
    name: re.compile(f"[{letters}]")
    for name, letters in (pair.split() for pair in (
        "Japanese ぀-ヿ", "Korean 가-힣", "Chinese 㐀-鿿", "Cyrillic Ѐ-ӿ", "Arabic ؀-ۿ", "Hebrew ֐-׿", "Hindi ऀ-ॿ", "Thai ฀-๿", "Greek Ͱ-Ͽ"))
}  # fmt: skip
NAMES = (*_WORDS, *SCRIPTS)
_SHARE, _MIXED = 0.5, 0.05  # of the letters are in a script: the text is in its language, or in several
_MIN_WORDS = 3  # distinct frequent words of a language that a text has, and half as many again as of any other
LONGEST = 400  # characters that are read


@lru_cache(maxsize=16)
def language(text: str) -> str:
    """Return the language of ``text``, or its script, and ``""`` if it is not clear."""
    text = FENCE.sub(" ", text[:LONGEST])
    if not text.isascii():
        letters = sum(map(str.isalpha, text)) or 1
        for name, script in SCRIPTS.items():
            share = len(script.findall(text)) / letters
            if share >= (_SHARE if name != "Japanese" else _MIXED):
                return name
            if share >= _MIXED:
                return ""
    counts = Counter(name for word in set(re.findall(r"[^\W\d_]+", text.casefold())) for name in _LANGUAGES_OF.get(word, ()))
    first, second = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    return first[0] if first[1] >= max(_MIN_WORDS, 1.5 * second[1]) else ""


def has_words_of(name: str, text: str, other: str) -> bool:
    """Return whether ``text`` has frequent words of the language ``name``, and none that is frequent in the ``other`` only."""
    words = [_LANGUAGES_OF.get(word, ()) for word in re.findall(r"[^\W\d_]+", text.casefold())]
    return any(name in own for own in words) and not any(other in own and name not in own for own in words)
