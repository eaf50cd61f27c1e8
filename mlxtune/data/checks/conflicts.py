"""Find rows that contradict each other: the same prompt, context and tools with answers that cannot both be right.

Two texts that say the same thing in different words are not a conflict, and neither are two poems. Only comparable content is
compared: short answers, values in JSON and tool calls, yes and no, numbers in short texts, and the number at the end of any text.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from rapidfuzz import fuzz

from mlxtune.core.sequences import grouped
from mlxtune.data.checks.base import BY_HAND, Check, CheckFamily, Finding
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.illustration import FENCE
from mlxtune.data.checks.pairs import normalize_answer
from mlxtune.data.duplicates import THRESHOLD, jaccard
from mlxtune.data.languages import FREQUENT_WORDS, WORDS
from mlxtune.data.rows import Preference, Row, TextRow, Unpaired, json_value

family = CheckFamily()
CONFLICT = family.register(
    Check(
        "conflict", "warn", "prompts with contradictory answers",
        "Another row gives this prompt a contradictory answer. One of them is wrong, or both teach the model to guess.", BY_HAND, "≠",
    )
)  # fmt: skip

_MAX_COMPARED = 8  # earlier rows with the same prompt that one row is compared with
_LABEL_WORDS = 4  # an answer with at most this many words is a label, a name or a number
_SHORT_WORDS = 30  # in a longer text, other numbers do not mean another answer
_CLAUSE = re.compile(r"[.,;:!?]+(?:\s|\Z)|\n|\b(?:and|but)\b")
_WORD = re.compile(r"[$€£%]|(?:(?<![\w.<>$€£%])-)?(?<![\w.<>])\d+(?:[.,]\d+)*(?!/?[a-z]\b)|[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_FINAL_NUMBER = re.compile(r"(?<![\w.])(?<!out of )(-?\d[\d,]*(?:\.\d+)?)[\s.%}$*]*\Z")
_NUMBER_WORDS = {word: str(number) for number, words in enumerate(WORDS["numbers"]) for word in words.split()}
_QUESTION = re.compile(r"[^.!?\n]+\?+")
_SPELLING = 85  # minimum similarity of two spellings of a word, in percent
_FILLER = frozenset(WORDS["filler"].split())
_VERDICT = re.compile(r"(?i)\W*(?:(yes|yep|yeah|true|correct)|(no|nope|false|incorrect))\b(?! (?:problem|worries|need)\b)")


@family.corpus_check
def conflicts(corpus: Corpus) -> Iterator[Finding]:
    """Find rows whose prompt, context and tools, or a prompt with other filler words, occurred before with a contradictory answer."""
    ranks = [rank for rank in range(len(corpus.contexts)) if rank not in corpus.copies]
    same = grouped((corpus.contexts[rank], rank) for rank in ranks)
    words = [(tuple(_content_words(corpus.prompts[rank])), rank) for rank in ranks if rank in corpus.short_answers]
    alike = grouped((own, rank) for own, rank in words if len(own) > 1)
    for groups, is_same in ((same, True), (alike, False)):
        for group in groups.values():
            read = lru_cache(_MAX_COMPARED + 1)(lambda rank: corpus.read(corpus.indices[rank]))
            for position, rank in enumerate(group[1:], 1):
                for earlier in group[max(0, position - _MAX_COMPARED) : position]:
                    is_apart = corpus.splits[rank] != corpus.splits[earlier]
                    if is_apart or (corpus.contexts[rank] == corpus.contexts[earlier]) is not is_same:
                        continue
                    one, two = read(rank), read(earlier)
                    is_near = not is_same and jaccard(corpus.prompts[rank], corpus.prompts[earlier]) >= THRESHOLD
                    if contradict(one, two) and (is_same or (not is_near and same_question(one, two))):
                        yield CONFLICT.finding(corpus.indices[rank], corpus.indices[earlier])
                        break


def contradict(one: Row, two: Row) -> bool:
    """Return whether two rows with the same prompt cannot both be right."""
    if type(one) is not type(two) or isinstance(one, TextRow):
        return False
    if isinstance(one, Preference) and isinstance(two, Preference):
        sides = [(normalize_answer(row.chosen), normalize_answer(row.rejected)) for row in (one, two)]
        return sides[0] == sides[1][::-1]
    if isinstance(one, Unpaired) and isinstance(two, Unpaired) and (one.label != two.label or not one.label):
        return one.label != two.label and normalize_answer(one.completion) == normalize_answer(two.completion)
    texts = target_text(one), target_text(two)
    values = [json_value(text) if text[:1] in ("{", "[") else None for text in texts]
    return _differ(*(text if value is None else value for text, value in zip(texts, values, strict=True)))


def same_question(one: Row, two: Row) -> bool:
    """Return whether two rows with near-duplicate prompts ask the same: they differ in spelling and filler words only."""
    if isinstance(one, TextRow) or isinstance(two, TextRow) or one.tools != two.tools:
        return False
    turns = [[(turn.role, _content_words(turn.content)) for turn in row.prompt] for row in (one, two)]
    return len(turns[0]) == len(turns[1]) and all(
        role == other
        and len(words) == len(others)
        and all(a == b or _is_respelled(a, b) for a, b in zip(words, others, strict=True))
        for (role, words), (other, others) in zip(*turns, strict=True)
    )


def _is_respelled(one: str, two: str) -> bool:
    has_prefix = abs(len(one) - len(two)) > 1 and (one.endswith(two) or two.endswith(one))  # such as able and unable
    return one[0].isalpha() and not has_prefix and fuzz.ratio(one, two) >= _SPELLING


def _content_words(text: str) -> list[str]:
    text = re.sub(r"['’](?:s|re|m|ll|ve|d)\b", "", text.casefold())
    return [word for word in re.findall(r"[^\W_]+(?:['’]t\b)?", text) if word not in _FILLER]


def _differ(one: Any, two: Any) -> bool:
    if isinstance(one, str) and isinstance(two, str):
        return _texts_differ(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return any(_differ(one[key], two[key]) for key in one.keys() & two.keys())
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and any(map(_differ, one, two))
    return type(one) is type(two) and one != two


def _texts_differ(one: str, two: str) -> bool:
    is_question = all(_QUESTION.fullmatch(text.strip()) for text in (one, two))
    if normalize_answer(one) == normalize_answer(two) or is_question:  # there are many questions to a prompt
        return False
    plain = [normalize_answer(FENCE.sub(" ", text)) for text in (one, two)]
    if plain[0] != plain[1] and _NUMBER.sub("0", plain[0]) == _NUMBER.sub("0", plain[1]):
        return True
    # in words, some of which have no spaces
    lengths = [max(len(text.split()), len(text.encode(errors="replace")) // 24) for text in (one, two)]
    last = [_FINAL_NUMBER.search(text) for text in (one, two)]
    ends_differ = last[0] and last[1] and float(last[0][1].replace(",", "")) != float(last[1][1].replace(",", ""))
    if max(lengths) <= _LABEL_WORDS:
        return bool(ends_differ) or not (last[0] and last[1] and _content_words(one) == _content_words(two))
    verdicts = [_VERDICT.match(text) for text in (one, two)]
    if verdicts[0] and verdicts[1] and verdicts[0].lastindex != verdicts[1].lastindex:
        return True
    signs = [(text[: found.start()].split() or [""])[-1] for text, found in zip((one, two), last, strict=True) if found]
    has_result = len(signs) == 2 and signs[0] == signs[1] and set(signs[0]) == {"#"}  # such as #### 72
    if max(lengths) > _SHORT_WORDS or has_result:
        return bool(ends_differ)
    (numbers, about), (others, about_others) = (_numbers(FENCE.sub(" ", text)) for text in (one, two))
    is_comparable = bool(numbers and others) and (not about.isdisjoint(about_others) or "" in about | about_others)
    if last[0] and last[1]:
        return bool(ends_differ) and is_comparable and last[0][1] not in others and last[1][1] not in numbers
    return is_comparable and numbers.isdisjoint(others)


def _numbers(text: str) -> tuple[set[str], set[str]]:
    """Return the numbers in ``text``, and what they are about: the content words and currencies next to them in their clause, if any."""
    numbers, about = set(), set()
    for clause in _CLAUSE.split(text.casefold()):
        words = [_NUMBER_WORDS.get(word, word) for word in _WORD.findall(clause) if word not in FREQUENT_WORDS]
        for place, word in enumerate(words):
            if word[-1].isdecimal():
                numbers.add(word)
                about |= {near for near in words[max(0, place - 1) : place + 2] if not near[-1].isdecimal()} if words[1:] else {""}
    return numbers, about
