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
_OWN = {name: set(words.split()) for name, words in WORDS["frequent"].items()}
_ALL = {name: own | set(WORDS["shared"].get(name, "").split()) for name, own in _OWN.items()}
_LANGUAGES_OF = {word: [name for name, words in _ALL.items() if word in words] for word in set().union(*_ALL.values())}
FREQUENT_WORDS = frozenset(_LANGUAGES_OF)
SCRIPTS: dict[str, re.Pattern[str]] = {name: re.compile(f"[{letters}]") for name, letters in WORDS["scripts"].items()}
NAMES = (*_OWN, *SCRIPTS)
_SHARE, _KANA, _MIXED = 0.5, 0.2, 0.05  # of the letters are in a script (or kana): the text is in its language, or in several
_WORDY = 0.18  # of the words of a text in a language, at least, are frequent ones; lists of names have fewer
_MIN_WORDS = 3  # distinct frequent words of a language that a text has, and half as many again as of any other
LONGEST = 400  # characters that are read
_SYMBOL = re.compile(r"(?<![Ͱ-Ͽ])[Ͱ-Ͽ]{1,2}(?![Ͱ-Ͽ])|https?://[!-~]+")  # Greek letters of a formula, and links


@lru_cache(maxsize=16)
def language(text: str) -> str:
    """Return the language of ``text``, or its script, and ``""`` if it is not clear."""
    text = _SYMBOL.sub(" ", FENCE.sub(" ", text[:LONGEST]))
    if not text.isascii():
        letters = sum(map(str.isalpha, text)) or 1
        for name, script in SCRIPTS.items():
            share = len(script.findall(text)) / letters
            if share >= (_SHARE if name != "Japanese" else _KANA):
                return name
            if share >= _MIXED:
                return ""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    frequent = [word for word in dict.fromkeys(words) if word in _LANGUAGES_OF]
    counts = Counter(name for word in frequent for name in _LANGUAGES_OF[word])
    (first, most), (second, fewer) = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    ours = _OWN.get(first, set())
    own, other = [word for word in words if word in ours], (_ALL.get(second, set()) - ours).intersection(words)
    is_clear = most > fewer and len(set(own)) >= max(_MIN_WORDS, 1.5 * len(other)) and len(own) >= _WORDY * len(words)
    return first if is_clear else ""


def has_words_of(name: str, text: str, other: str) -> bool:
    """Return whether ``text`` has frequent words of the language ``name``, and none that is frequent in the ``other`` only."""
    words = [_LANGUAGES_OF.get(word, ()) for word in re.findall(r"[^\W\d_]+", text.casefold())]
    return any(name in own for own in words) and not any(other in own and name not in own for own in words)


def language_other_than(name: str, text: str) -> str:
    """Return the language with most of the frequent words in ``text``, if there are two or more of them, and none of the language ``name``."""
    words = FREQUENT_WORDS.intersection(re.findall(r"[^\W\d_]+", text[:LONGEST].casefold()))
    names: Counter[str] = Counter(own for word in words for own in _LANGUAGES_OF[word])
    if len(words) < 2 or name in names or any(script.search(text) for script in SCRIPTS.values()):
        return ""
    return names.most_common(1)[0][0]
