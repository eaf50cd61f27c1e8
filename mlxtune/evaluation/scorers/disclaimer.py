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
    wanted = json_value(reference) if reference is not None else None
    heard = normalised(" ".join(strings(json_value(output, output))))
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


def json_value(text: str, default: Any = None) -> Any:
    """The JSON value of ``text``, or ``default`` where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return default


def strings(value: Any) -> list[str]:
    """Every string value in a JSON value, in reading order, however deep."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict | list):
            waiting.extend(reversed(list(item.values()) if isinstance(item, dict) else item))
    return found
