"""RESTAURANTS-8K (Coope et al. 2020, arXiv:2005.08866): the booking details that a guest gives, word for word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sources import Row, chat, with_validation

_SLOTS = ("date", "time", "people", "first_name", "last_name")
_SYSTEM = f"Extract the booking details that the guest gives, word for word, as a JSON object with the keys {', '.join(_SLOTS)}."
_FILES = {64: "train_7.json", 256: "train_5.json", 1024: "train_3.json"}  # the paper's subsets


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Return rows of the paper's smallest subset that has at least ``rows``, and of its test file."""
    named = {path.rsplit("/", 1)[-1]: json.loads(content) for path, content in files.items()}
    subset = next((name for size, name in _FILES.items() if size >= rows), "train_3.json")
    parts = with_validation(named[subset], named["test.json"], rows, held_out)
    return {name: [_row(entry) for entry in part] for name, part in parts.items()}


def _row(entry: Mapping[str, Any]) -> Row:
    text, asked = entry["userInput"]["text"], entry.get("context", {}).get("requestedSlots", [])
    spans = {
        label["slot"]: text[label["valueSpan"].get("startIndex", 0) : label["valueSpan"]["endIndex"]]
        for label in entry.get("labels", [])
    }
    question = f"(The guest was asked for the {', '.join(asked)}.) " if asked else ""
    return chat(question + text, json.dumps({slot: spans[slot] for slot in _SLOTS if slot in spans}, ensure_ascii=False), _SYSTEM)
