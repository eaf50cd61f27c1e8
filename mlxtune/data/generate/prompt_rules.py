"""Refuse what a teacher writes but the rows do not allow: prompts that nobody sends, prompt injections, and other languages."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mlxtune.core.files import read_patterns
from mlxtune.data.checks.characters import NAMED_LANGUAGE
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.languages import FREQUENT_WORDS, language
from mlxtune.data.rows import Row, last_prompt

LONGER = 4  # times the longest prompt of the training rows
_MIN_SHARE = 0.02  # of the training rows have a language, both languages of a row, or a pattern
_DISTINCT = 0.4  # minimum share of distinct words in a prompt of ``_MIN_WORDS`` or more
_MIN_WORDS = 8
_BEGINNING = 100  # words whose repetition counts, because a long text repeats its own
_PATTERNS = read_patterns(__package__, "prompt_rules.toml")


@dataclass(frozen=True)
class PromptRules:
    """What the training ``rows`` allow. A pattern that many of them have belongs to the task, and refuses nothing."""

    rows: Sequence[Row]

    @cached_property
    def _prompts(self) -> list[str]:
        return [last_prompt(row) for row in self.rows]

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        few = _MIN_SHARE * len(self._prompts)
        return [(kind, one) for kind, one in _PATTERNS.items() if sum(map(bool, map(one.search, self._prompts))) < max(1, few)]

    @cached_property
    def _words(self) -> frozenset[str]:
        return FREQUENT_WORDS.union(*map(_latin_words, self._prompts))

    @cached_property
    def languages(self) -> frozenset[tuple[str, str]]:
        """The languages of prompts and their answers, where both are clear."""
        pairs = [(language(prompt), language(target_text(row))) for prompt, row in zip(self._prompts, self.rows, strict=True)]
        return frozenset(pair for pair in set(pairs) if all(pair) and pairs.count(pair) >= _MIN_SHARE * len(pairs))

    @cached_property
    def _prompt_languages(self) -> frozenset[str]:
        found = list(map(language, self._prompts))
        return frozenset(name for name in set(found) if name and found.count(name) >= _MIN_SHARE * len(found))

    def fault(self, prompt: str) -> str:
        """Return why ``prompt`` is refused: ``injection``, ``junk``, or ``other_language``; ``""`` if it is not."""
        if kind := next((kind for kind, pattern in self._patterns if pattern.search(prompt)), ""):
            return kind
        words = prompt.casefold().split()[:_BEGINNING]
        latin = _latin_words(prompt)
        if (
            sum(map(str.isalpha, prompt)) < 2
            or len(prompt) > LONGER * max(map(len, self._prompts))
            or (len(words) >= _MIN_WORDS and len(set(words)) < _DISTINCT * len(words))
            or (len(latin) > 1 and self._words.isdisjoint(latin))
        ):
            return "junk"
        own = language(prompt)
        is_other = own and self._prompt_languages and own not in self._prompt_languages and not NAMED_LANGUAGE.search(prompt)
        return "other_language" if is_other else ""

    def allows(self, row: Row) -> bool:
        """Return whether training rows have the languages of ``row``'s prompt and answer, if these are clear."""
        pair = language(last_prompt(row)), language(target_text(row))
        return not all(pair) or not self.languages or pair in self.languages


def _latin_words(text: str) -> list[str]:
    return re.findall(r"[a-z]{2,}", text.casefold())
