"""E2E (Novikova et al. 2017, arXiv:1706.09254), reversed: from a sentence about a restaurant to its attributes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

from sources import Row, chat, meaning, with_validation

_NAMES = ("name", "eatType", "food", "priceRange", "customer rating", "area", "familyFriendly", "near")
_SYSTEM = f"List what the text says about the restaurant, as a JSON object with the keys {', '.join(_NAMES)}."


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Return rows of the development set to train and validate on, and of the test set, whose meanings are different."""
    return with_validation(_read(files["devset.csv"]), _read(files["testset_w_refs.csv"]), rows, held_out)


def _read(content: bytes) -> list[Row]:
    rows = csv.DictReader(io.StringIO(content.decode()))
    return [chat(row["ref"].strip(), _ordered(meaning(row["mr"])), _SYSTEM) for row in rows]


def _ordered(attributes: Mapping[str, str]) -> str:
    return json.dumps({name: attributes[name] for name in _NAMES if name in attributes}, ensure_ascii=False)
