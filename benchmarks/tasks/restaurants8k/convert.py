"""RESTAURANTS-8K (Coope et al. 2020, arXiv:2005.08866; CC-BY-4.0): the slots of a restaurant booking, as a JSON object of spans."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BASE = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/57ec275d8078af65b7731c2a98be812d844a6d6b"
    "/span_extraction/restaurant8k"
)
FILES = {
    f"{_BASE}/train_3.json": "9eb9d0cfd4de0a73c702cb1f199bcac121966d19bdad31ed0d5aaae13fdd6fe3",
    f"{_BASE}/train_5.json": "fe61ffbe16783a2e8452fce408c48e4e9dde58040345d47e231e49ca76664224",
    f"{_BASE}/train_7.json": "575f4a992a9c774c103566aabb32855b148a633fdabb8985db7a09b9de9fb820",
    f"{_BASE}/test.json": "31dbbb2fa36319f9f1f2c3ed441619ebf6e081f82aefd484b98caf86cd826ab0",
}
SIZES = (64, 256, 1024)
PUBLISHED = {
    64: "F1 of Span-ConveRT: see the paper's table 3",
    256: "F1 of Span-ConveRT: see the paper's table 3",
    1024: "F1 of Span-ConveRT: see the paper's table 3",
}
_SLOTS = ("date", "time", "people", "first_name", "last_name")
_TRAIN = {64: "train_7.json", 256: "train_5.json", 1024: "train_3.json"}
_PROMPT = (
    "Extract the booking details that the guest gives, word for word, as a JSON object with the keys " + ", ".join(_SLOTS) + "."
)


def convert(files: Mapping[str, Path], size: int, test_rows: int) -> dict[str, list[tuple[str, str, str]]]:
    """Return the ``size`` training rows of the paper's split, of which a tenth validates, and ``test_rows`` rows of the test file, each as (system, prompt, answer)."""
    train, test = (json.loads(files[name].read_text(encoding="utf-8")) for name in (_TRAIN[size], "test.json"))
    shuffled = random.Random(7)
    shuffled.shuffle(train)
    held = size // 10
    parts = {"train": train[held:], "valid": train[:held], "test": shuffled.sample(test, test_rows)}
    return {name: [_row(row) for row in rows] for name, rows in parts.items()}


def _row(row: Mapping[str, Any]) -> tuple[str, str, str]:
    text, asked = row["userInput"]["text"], row.get("context", {}).get("requestedSlots", [])
    spans = {
        one["slot"]: text[one["valueSpan"].get("startIndex", 0) : one["valueSpan"]["endIndex"]] for one in row.get("labels", [])
    }
    question = f"(The guest was asked for the {', '.join(asked)}.) " if asked else ""
    answer = json.dumps({slot: spans[slot] for slot in _SLOTS if slot in spans}, ensure_ascii=False)
    return _PROMPT, f"{question}{text}", answer
