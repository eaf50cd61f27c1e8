"""The differences between two texts, word by word."""

import difflib
import re
from functools import lru_cache

_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_MAX_DIFF_WORDS = 3000  # longer texts are not compared

Words = tuple[tuple[str, bool], ...]  # pieces of a text, each with whether only this text has it


@lru_cache(16)  # a pair is drawn many times
def word_diff(left: str, right: str) -> tuple[Words, Words]:
    """Split two texts into pieces that both share and pieces that only one has. A very long text is a single piece."""
    left_words, right_words = _WORD.findall(left), _WORD.findall(right)
    if max(len(left_words), len(right_words)) > _MAX_DIFF_WORDS:
        return ((left, False),), ((right, False),)
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    matcher = difflib.SequenceMatcher(None, left_words, right_words, autojunk=False)
    for operation, left_start, left_end, right_start, right_end in matcher.get_opcodes():
        texts = "".join(left_words[left_start:left_end]), "".join(right_words[right_start:right_end])
        for side, text in zip(sides, texts, strict=True):
            if text:
                side.append((text, operation != "equal"))
    return _smooth_spaces(sides[0]), _smooth_spaces(sides[1])


def _smooth_spaces(words: list[tuple[str, bool]]) -> Words:
    """Mark the space between two differing words as a difference, and all other spaces as shared."""
    for index, (text, _) in enumerate(words):
        if not text.strip():
            neighbors = words[max(index - 1, 0) : index] + words[index + 1 : index + 2]
            words[index] = (text, len(neighbors) == 2 and all(differs for _, differs in neighbors))
    return tuple(words)
