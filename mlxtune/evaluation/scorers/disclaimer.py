"""Is the right disclaimer there, and no wrong one?"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

from mlxtune.evaluation.scorers import HOLDS, Score
from mlxtune.recipe import Disclaimer

_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "–": "-", "—": "-"})


def normalised(text: str) -> str:
    """NFKC, case, runs of white space, quotes and dashes folded: what counts as the same sentence."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold().split())


def right_disclaimer(output: str, rules: Sequence[Disclaimer], reference: str | None) -> Score:
    """Whether every disclaimer that the reference's fields call for is in ``output``, and none of the others.

    Without a reference, only rules without ``when`` can be judged. In JSON outputs, escapes are resolved before the search.
    """
    wanted = _value(reference) if reference is not None else None
    heard = normalised(" ".join(_strings(_value(output, output))))
    for rule in rules:
        needed = not rule.when or (isinstance(wanted, dict) and all(wanted.get(key) == value for key, value in rule.when.items()))
        if rule.when and wanted is None:
            continue
        present = normalised(rule.text) in heard
        if needed and not present:
            return Score(False, "missing", f"“{rule.text}” is missing")
        if present and not needed:
            return Score(False, "out of place", f"“{rule.text}” does not belong here")
    return HOLDS


def _value(text: str, default: Any = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return default


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return []
    return [text for item in value for text in _strings(item)]
