"""Verifiable instructions: checks that code can make on an answer, like those of IFEval (Zhou et al. 2023, arXiv:2311.07911).

An off-task prompt lists its checks with their arguments: ``"checks": [["max_words", 10], ["ends", "?"]]``. To add one, write a function
whose parameters after the answer are ``int`` or ``str``.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

import regex

CHECKS: dict[str, Callable[..., bool]] = {}
_WORD = regex.compile(r"[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*")
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bDr)(?<!\bMrs)[.!?]+[\"'”’)*]*(?=\s|$)")
_ITEM = re.compile(r"\s*(?:[-*•+]|\d+[.)])\s+(.*\S)")


def passes(answer: str, check: tuple[Any, ...]) -> bool:
    """Return whether ``answer`` passes ``check``: its name and arguments. An empty answer passes none."""
    return bool(answer.strip()) and CHECKS[check[0]](answer.strip(), *check[1:])


def is_check(value: tuple[Any, ...]) -> bool:
    """Return whether ``value`` is the name of a check with arguments of its types."""
    check = CHECKS.get(value[0]) if value and isinstance(value[0], str) else None
    if check is None:
        return False
    return [parameter.annotation for parameter in inspect.signature(check).parameters.values()] == [
        type(one).__name__ for one in ("", *value[1:])
    ]


def _check(function: Callable[..., bool]) -> Callable[..., bool]:
    CHECKS[function.__name__] = function
    return function


def _words(text: str) -> list[str]:
    return [str(word).lower() for word in _WORD.findall(text)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _items(text: str) -> list[str]:
    """Return the items of a list: its bullet points or numbered lines or, without any, its lines or its parts between commas."""
    marked = [match[1] for line in _lines(text) if (match := _ITEM.match(line))]
    lines = marked or _lines(text)
    return lines if len(lines) > 1 else [part.strip() for part in text.rstrip(".").split(",") if part.strip()]


@_check
def max_words(answer: str, most: int) -> bool:
    return len(_words(answer)) <= most


@_check
def min_words(answer: str, least: int) -> bool:
    return len(_words(answer)) >= least


@_check
def words(answer: str, count: int) -> bool:
    return len(_words(answer)) == count


@_check
def sentences(answer: str, count: int) -> bool:
    return len(_SENTENCE_END.findall(answer)) == count and bool(_SENTENCE_END.search(answer[-4:]))


@_check
def paragraphs(answer: str, count: int) -> bool:
    return len(re.split(r"\n\s*\n", answer)) == count


@_check
def lines(answer: str, count: int) -> bool:
    return len(_lines(answer)) == count


@_check
def bullets(answer: str, count: int) -> bool:
    return len(re.findall(r"(?m)^\s*[-*•+] +\S", answer)) == count


@_check
def numbered(answer: str, count: int) -> bool:
    return re.findall(r"(?m)^\s*(\d+)[.)] *\S", answer) == [str(number) for number in range(1, count + 1)]


@_check
def comma_items(answer: str, count: int) -> bool:
    return len([part for part in answer.split(",") if part.strip()]) == count == answer.count(",") + 1


@_check
def alphabetical(answer: str, count: int) -> bool:
    items = [item.lower() for item in _items(answer)]
    return len(items) == count and items == sorted(items)


@_check
def lowercase(answer: str) -> bool:
    return answer.islower()


@_check
def uppercase(answer: str) -> bool:
    return answer.isupper()


@_check
def capitals(answer: str, least: int) -> bool:
    """At least ``least`` words are all in capital letters."""
    return len(regex.findall(r"\b\p{Lu}{2,}\b", answer)) >= least


@_check
def contains(answer: str, text: str) -> bool:
    """A word may have an ending."""
    return bool(re.search(rf"{_boundary(text)}{re.escape(text)}", answer, re.IGNORECASE))


@_check
def omits(answer: str, text: str) -> bool:
    """A letter or a sign appears nowhere, and a word not as a whole word."""
    start = _boundary(text)
    end = r"(?!\w)" if start else ""
    return not re.search(rf"{start}{re.escape(text)}{end}", answer, re.IGNORECASE)


def _boundary(text: str) -> str:
    return r"(?<!\w)" if re.fullmatch(r"[\w ]{2,}", text) else ""


@_check
def word_times(answer: str, word: str, least: int) -> bool:
    return _words(answer).count(word.lower()) >= least


@_check
def starts(answer: str, text: str) -> bool:
    return answer.lstrip("\"'“*").lower().startswith(text.lower())


@_check
def ends(answer: str, text: str) -> bool:
    return answer.rstrip("\"'”*").lower().endswith(text.lower())


@_check
def enclosed(answer: str, left: str, right: str) -> bool:
    """A passage stands between ``left`` and ``right``."""
    return bool(re.search(rf"{re.escape(left)}[^\n]*?\w[^\n]*?{re.escape(right)}", answer))


@_check
def wrapped(answer: str, left: str, right: str) -> bool:
    """The whole answer stands between ``left`` and ``right``."""
    return len(answer) > len(left + right) and answer.startswith(left) and answer.endswith(right)


@_check
def json_key(answer: str, key: str) -> bool:
    value = _json(answer)
    return isinstance(value, dict) and key in value


@_check
def json_items(answer: str, count: int) -> bool:
    value = _json(answer)
    return isinstance(value, list) and len(value) == count


def _json(answer: str) -> Any:
    """Return the JSON value that the answer is, with or without a code fence; ``None`` if it is none."""
    try:
        return json.loads(re.sub(r"\A```(?:json)?\s*|\s*```\Z", "", answer))
    except (ValueError, RecursionError):
        return None
