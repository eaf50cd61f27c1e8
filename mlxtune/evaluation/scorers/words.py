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
_THOUGHT = re.compile(r"<(think(?:ing)?)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)


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
    """``output`` without what stands in ``<think>…</think>``, also when a template opened the tag or the limit cut it off."""
    return _END_OF_THOUGHT.split(_THOUGHT.sub("", output))[-1]


def spoken(output: str) -> list[str]:
    """The texts of an output in reading order: a JSON object's strings, escapes resolved, and what stands around it."""
    found = find(output)
    if not found or not (isinstance(found[0], dict) or not (found[1] + found[2]).strip()):
        return [output]
    value, before, after = found
    return [text for text in (before, *strings(value), after) if text.strip()]
