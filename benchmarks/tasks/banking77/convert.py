"""BANKING77 (Casanueva et al. 2020, arXiv:2003.04807): the intent of a bank customer's message, with as many rows of each intent."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping

from sources import Row, chat, shuffled

_SYSTEM = "Name the intent of the bank customer's message."


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Return ``rows`` rows to train on, as many of each intent, one more of each to validate on, and rows of the test file."""
    train, test = (_read(files[f"banking_data/{name}.csv"]) for name in ("train", "test"))
    by_intent = defaultdict(list)
    for row in shuffled(train):
        by_intent[row["messages"][-1]["content"]].append(row)
    each = max(1, rows // len(by_intent))
    return {
        "train": [row for found in by_intent.values() for row in found[:each]],
        "valid": [row for found in by_intent.values() for row in found[each : each + 1]],
        "test": shuffled(test)[:held_out],
    }


def _read(content: bytes) -> list[Row]:
    return [chat(row["text"].strip(), row["category"], _SYSTEM) for row in csv.DictReader(io.StringIO(content.decode()))]
