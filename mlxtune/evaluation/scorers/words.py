"""Words as people read them: what counts as the same phrase, and which parts of an output are its answer."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from mlxtune.evaluation.scorers.json_find import find, strings

_SIGNS = str.maketrans(
    dict.fromkeys("‘’‚‛′`´", "'") | dict.fromkeys("“”„‟″«»", '"') | dict.fromkeys("‐‑‒–—―−", "-")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff")
)  # fmt: skip
_GAP = re.compile(r"[^\S ]\s*| \s+")  # white space, but for a single space
_THINK = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad)"
_THOUGHT = re.compile(  # in tags, in Mistral's brackets, and in the channels of gpt-oss that are not the final one
    rf"<({_THINK})>.*?(?:</\1>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z)"
    r"|<\|channel\|>(?!final).*?(?:<\|channel\|>final(?:<\|message\|>)?|<\|end\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_END_OF_THOUGHT = re.compile(rf"</{_THINK}>|\[/THINK\]", re.IGNORECASE)
THINKS = re.compile(rf"\s*(?:<{_THINK}>|\[THINK\]|<\|channel\|>)|[^<\[]*(?:</{_THINK}>|\[/THINK\])", re.IGNORECASE)
"""An output that begins with a thought, or with the end of one that a template began."""


@lru_cache(maxsize=256)  # each phrase looks at the same texts
def folded(text: str) -> str:
    """NFKC, case, quotes, dashes and invisible signs folded. White space becomes one space, line break or empty line."""
    if text.isascii():
        same = text.replace("`", "'").casefold()
    else:
        same = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS).casefold()
    return _GAP.sub(lambda gap: "\n\n" if gap[0].count("\n") > 1 else "\n" if "\n" in gap[0] else " ", same)


def normalised(text: str) -> str:
    """:func:`folded` on one line: what counts as the same sentence."""
    return " ".join(folded(text).split())


def answered(output: str) -> str:
    """``output`` without thoughts (``<think>…</think>`` and its like), also when a template opened one or the limit cut it off."""
    return _END_OF_THOUGHT.split(_THOUGHT.sub("", output))[-1]


def spoken(output: str) -> list[str]:
    """The texts of an output in reading order: a JSON object's strings, escapes resolved, and what stands around it."""
    found = find(output)
    if not found or not (isinstance(found[0], dict) or not (found[1] + found[2]).strip()):
        return [output]
    value, before, after = found
    return [text for text in (before, *strings(value), after) if text.strip()]
