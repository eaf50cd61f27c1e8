"""Find where a prompt's tokens differ between the trainer and another program. Imports no mlx."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlxtune.core.text import one_line


@dataclass(frozen=True)
class PromptDifference:
    """The first difference between a row's prompt as the trainer rendered it and as another program does.

    ``position`` counts tokens from 0. ``expected`` and ``actual`` are the texts of the tokens there, empty after the end.
    """

    row: str
    position: int
    expected: str
    actual: str

    @property
    def sentence(self) -> str:
        expected, actual = (repr(one_line(text, 40)) if text else "the end" for text in (self.expected, self.actual))
        return f"The template differs at token {self.position}: {actual} instead of {expected}."


def compare_tokens(
    row: str, expected: Sequence[int], actual: Sequence[int], decode: Callable[[list[int]], str]
) -> PromptDifference | None:
    """Return the first difference between two token sequences for the prompt of ``row``, or ``None`` if they are equal."""
    if list(expected) == list(actual):
        return None
    pairs = zip(expected, actual, strict=False)
    position = next((at for at, (one, two) in enumerate(pairs) if one != two), min(len(expected), len(actual)))
    texts = (decode(list(tokens[position : position + 1])) for tokens in (expected, actual))
    return PromptDifference(row, position, *texts)
