"""Normalize text for comparison, and separate an output's answer from its reasoning."""

import re
import unicodedata
from functools import lru_cache

from mlxtune.data.rows import json_strings
from mlxtune.evaluation.scorers.json_parser import find_json

_TYPOGRAPHY = str.maketrans(
    dict.fromkeys("‘’‚‛′`´", "'") | dict.fromkeys("“”„‟″«»", '"') | dict.fromkeys("‐‑‒–—―−", "-")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff")
)  # fmt: skip
_EMPHASIS = re.compile(r"(\*{1,3})(?=[^\s*])([^*]{1,300})(?<=\S)\1|(?<!\w)(_{1,3})(?=[^\s_])([^_]{1,300})(?<=\S)\3(?!\w)")
_GAP = re.compile(r"[^\S ]\s*| \s+")  # whitespace other than a single space
_THINK = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad)"
_THOUGHT = re.compile(  # in tags, in Mistral's brackets, and in the channels of gpt-oss that are not the final one
    rf"<({_THINK})>.*?(?:</\1>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z)"
    r"|<\|channel\|>(?!final).*?(?:<\|channel\|>final(?:<\|message\|>)?|<\|end\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_END_OF_THOUGHT = re.compile(rf"</{_THINK}>|\[/THINK\]", re.IGNORECASE)
THINKING = re.compile(rf"\s*(?:<{_THINK}>|\[THINK\]|<\|channel\|>)|[^<\[]*(?:</{_THINK}>|\[/THINK\])", re.IGNORECASE)
"""Matches an output that starts with reasoning, or with the end of reasoning that a template opened."""


@lru_cache(maxsize=256)  # the same texts are searched for each phrase
def fold_typography(text: str) -> str:
    """Return ``text`` in NFKC with case, quotes, dashes and invisible characters folded, and whitespace collapsed."""
    if text.isascii():
        folded = text.replace("`", "'").casefold()
    else:
        folded = unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY)).translate(_TYPOGRAPHY).casefold()
    return _GAP.sub(lambda gap: "\n\n" if gap[0].count("\n") > 1 else "\n" if "\n" in gap[0] else " ", folded)


def normalize(text: str) -> str:
    """Return :func:`fold_typography` of ``text`` on one line."""
    return " ".join(fold_typography(text).split())


def strip_emphasis(text: str) -> str:
    """Return ``text`` without Markdown's marks of emphasis, at most two levels deep."""
    for _ in range(2 if "*" in text or "_" in text else 0):
        text = _EMPHASIS.sub(r"\2\4", text)
    return text


def strip_thinking(output: str) -> str:
    """Return ``output`` without reasoning (``<think>…</think>`` and similar), even if the template opened it or it was cut off."""
    return _END_OF_THOUGHT.split(_THOUGHT.sub("", output))[-1]


def visible_texts(output: str) -> list[str]:
    """Return the texts of an output in reading order: a JSON object's strings, unescaped, and the text around it."""
    match = find_json(output)
    if not match or not (isinstance(match[0], dict) or not (match[1] + match[2]).strip()):
        return [output]
    value, before, after = match
    return [text for text in (before, *json_strings(value), after) if text.strip()]
