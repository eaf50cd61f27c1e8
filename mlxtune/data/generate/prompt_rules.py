"""Refuse what a teacher writes but the rows do not allow: prompts that nobody sends, prompt injections, and other languages."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mlxtune.data.checks.characters import NAMED_LANGUAGE
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.languages import FREQUENT_WORDS, language
from mlxtune.data.rows import Row, last_prompt

_LONGER = 4  # times the longest prompt of the training rows
_MIN_SHARE = 0.02  # of the training rows have a language, or both languages of a row
_DISTINCT = 0.4  # minimum share of distinct words in a prompt of ``_MIN_WORDS`` or more
_MIN_WORDS = 8
_BEGINNING = 100  # words whose repetition counts, because a long text repeats its own
_INJECTION = re.compile(
    r"""(?xim)
      \b(?:ignore|disregard|forget|override|bypass)\b[^.!?\n]{0,30}\b(?:previous|prior|above|earlier|preceding|your|system|original)\b[^.!?\n]{0,20}
        \b(?:instructions?|prompts?|rules?|guidelines?|messages?|training|context)\b
    | \b(?:ignore|disregard|forget)[ ](?:all|everything)[ ](?:that[ ]|of[ ])?(?:you|above|before|instructions|the[ ](?:above|instructions))
    | \b(?:ignorier\w*|vergiss|ignore[zr]|oublie[zr]?|ignora|olvida|dimentica)\b[^.!?\n]{0,40}\b(?:anweisungen|instructions|instrucciones|istruzioni|regeln)\b
    | \b(?:reveal|print|repeat|show|output|leak|tell[ ]me)\b[^.!?\n]{0,40}\b(?:system|hidden|initial|secret)[ ](?:prompt|instructions?|messages?)
    | \byou[ ]are[ ](?:now[ ](?:an?\b|in\b|dan\b|free\b|acting)|no[ ]longer[ ](?:an?\b|bound))
    | \b(?:act|behave|respond|answer)[ ]as[ ]if[ ]you[ ](?:had[ ]no|were[ ]not[ ]bound)
    | \bpretend[ ](?:that[ ])?you[ ](?:have[ ]no|are[ ]not[ ]bound|are[ ]unrestricted)
    | \b(?:developer|dan|god|jailbreak)[ ]mode\b | \bjailbreak[ ](?:prompt|yourself|the[ ](?:AI|assistant|bot|model))\b | \bdo[ ]anything[ ]now\b
    | \bnew[ ](?:system[ ])?(?:instructions?|prompt)[ ]*: | ^\s*(?:system|assistant|developer)\s*:
    | <\|\w+\|> | \[/?INST\] | </?(?:system|instructions?|s)>
    """
)
_JUNK = re.compile(
    r"""(?xi)
      \A\W*(?:string|text|(?:new[ ])?(?:message|prompt|question|example)s?|n/?a|none|null|todo|tbd|test|foo|lorem[ ]ipsum.*)\W*\d*\W*\Z
    | \A\W*(?:new[ ])?(?:message|prompt|question|example)[ ]\d+\b
    | \A\s*(?:sure|certainly|of[ ]course|absolutely)\b[,!.]\s*(?:here\b|I['’]|below\b)
    | \A\W*(?:\w+\W+){0,2}?here[ ](?:are|is)\b[^.!?\n]{0,30}\b(?:messages?|prompts?|questions?|examples?|variations?)\b[^.!?\n(]*:
    | \bJSON[ ](?:list|array)\b | \bas[ ]an[ ]AI\b | <<\w*>> | \A\s*(?:```|[\[{]\s*["{\[])
    | \[(?:your|insert|name|order|date|product|company)\b[^\]\n]{0,30}\] | (?<!\$)\{\{\s*\w[^{}\n]*\}\}
    """
)


@dataclass(frozen=True)
class PromptRules:
    """What the training ``rows`` allow. A pattern that occurs in them belongs to the task, and refuses nothing."""

    rows: Sequence[Row]

    @cached_property
    def _prompts(self) -> list[str]:
        return [last_prompt(row) for row in self.rows]

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        every = (("injection", _INJECTION), ("junk", _JUNK))
        return [(kind, pattern) for kind, pattern in every if not any(map(pattern.search, self._prompts))]

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
            or len(prompt) > _LONGER * max(map(len, self._prompts))
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
