"""Verifiable instructions: checks that code can make on an answer, like those of IFEval (Zhou et al. 2023, arXiv:2311.07911).

An off-task prompt lists its checks with their arguments: ``"checks": [["max_words", 10], ["ends", "?"]]``. To add one, add it below the
types of its arguments.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import regex

_WORD = regex.compile(r"[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*")
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bDr)(?<!\bMrs)[.!?]+[\"'”’)*]*(?=\s|$)")
_ITEM = re.compile(r"(?m)^\s*(?:[-*•+]|\d+[.)])\s+(.*\S)")


def passes(answer: str, check: tuple[Any, ...]) -> bool:
    """Return whether ``answer`` passes ``check``: its name and arguments. An empty answer passes none."""
    return bool(answer.strip()) and CHECKS[check[0]](answer.strip(), *check[1:])


def is_check(value: tuple[Any, ...]) -> bool:
    """Return whether ``value`` is the name of a check with arguments of its types."""
    return bool(value) and isinstance(value[0], str) and value[0] in _CHECKS.get(tuple(type(one) for one in value[1:]), ())


def _words(text: str) -> list[str]:
    return [str(word).lower() for word in _WORD.findall(text)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _sentences(text: str) -> int:
    """Return the number of sentences, or -1 if the last one does not end."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return len(ends) if ends and ends[-1] == len(text) else -1


def _is_sorted(text: str, count: int) -> bool:
    """Whether there are ``count`` items in alphabetical order: those of a list or, without one, lines or parts between commas."""
    items = _ITEM.findall(text) or _lines(text)
    items = items if len(items) > 1 else re.split(r",\s*", text.rstrip("."))
    return len(items) == count and items == sorted(items, key=str.lower)


def _finds(answer: str, text: str, end: str = "") -> bool:
    """Whether ``text`` occurs: a letter or a sign anywhere, and a word at the start of a word, before the pattern ``end``."""
    is_word = re.fullmatch(r"[\w ]{2,}", text)
    return bool(re.search(rf"(?<!\w){re.escape(text)}{end}" if is_word else re.escape(text), answer, re.IGNORECASE))


def _json(answer: str) -> Any:
    """Return the first JSON object or array in the answer, which may be in a code fence; ``None`` if there is none."""
    try:
        return json.JSONDecoder().raw_decode(re.sub(r"\A[^\[{]*", "", answer))[0]
    except (ValueError, RecursionError):
        return None


_CHECKS: Mapping[tuple[type, ...], Mapping[str, Callable[..., bool]]] = {
    (): {"lowercase": str.islower, "uppercase": str.isupper},
    (int,): {
        "max_words": lambda answer, most: len(_words(answer)) <= most,
        "min_words": lambda answer, least: len(_words(answer)) >= least,
        "words": lambda answer, count: len(_words(answer)) == count,
        "sentences": lambda answer, count: _sentences(answer) == count,
        "paragraphs": lambda answer, count: len(re.split(r"\n\s*\n", answer)) == count,
        "lines": lambda answer, count: len(_lines(answer)) == count,
        "bullets": lambda answer, count: len(re.findall(r"(?m)^\s*[-*•+] +\S", answer)) == count,
        "numbered": lambda answer, count: [*map(int, re.findall(r"(?m)^\s*(\d+)[.)] *\S", answer))] == [*range(1, count + 1)],
        "comma_items": lambda answer, count: [bool(part.strip()) for part in answer.split(",")] == [True] * count,
        "alphabetical": _is_sorted,
        "capitals": lambda answer, least: len(regex.findall(r"\b\p{Lu}{2,}\b", answer)) >= least,  # words in capital letters
        "json_items": lambda answer, count: isinstance(value := _json(answer), list) and len(value) == count,
    },
    (str,): {
        "contains": _finds,  # a word may have an ending
        "omits": lambda answer, text: not _finds(answer, text, r"(?!\w)"),
        "starts": lambda answer, text: answer.lstrip("\"'“*").lower().startswith(text.lower()),
        "ends": lambda answer, text: answer.rstrip("\"'”*").lower().endswith(text.lower()),
        "json_key": lambda answer, key: isinstance(value := _json(answer), dict) and key in value,
    },
    (str, int): {"word_times": lambda answer, word, least: _words(answer).count(word.lower()) >= least},
    (str, str): {  # text between two signs: somewhere in a line, or the whole answer
        "enclosed": lambda answer, left, right: bool(re.search(rf"{re.escape(left)}.*?\w.*?{re.escape(right)}", answer)),
        "wrapped": lambda answer, left, right: (
            re.fullmatch(rf"{re.escape(left)}.+{re.escape(right)}", answer, re.DOTALL) is not None
        ),
    },
}
CHECKS = {name: check for checks in _CHECKS.values() for name, check in checks.items()}
