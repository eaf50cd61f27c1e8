"""BANKING77 (Casanueva et al. 2020, arXiv:2003.04807; CC-BY-4.0): the intent of a bank customer's message, with ten rows per intent."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

_BASE = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data"
FILES = {
    f"{_BASE}/train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
    f"{_BASE}/test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
}
SIZES = (770,)
PUBLISHED = {770: "83.4% (BERT, fine-tuned), 85.2% (USE+ConveRT)"}
_PROMPT = "Name the intent of the bank customer's message."


def convert(files: Mapping[str, Path], size: int, test_rows: int) -> dict[str, list[tuple[str, str, str]]]:
    """Return ``size`` training rows, as many of each intent, 77 validation rows, and ``test_rows`` rows of the test file, each as (system, prompt, answer)."""
    train, test = (list(csv.DictReader(files[name].open(encoding="utf-8"))) for name in ("train.csv", "test.csv"))
    shuffled = random.Random(7)
    shuffled.shuffle(train)
    by_intent = defaultdict(list)
    for row in train:
        by_intent[row["category"]].append(row)
    each = size // len(by_intent)
    parts = {
        "train": [row for rows in by_intent.values() for row in rows[:each]],
        "valid": [row for rows in by_intent.values() for row in rows[each : each + 1]],
        "test": shuffled.sample(test, test_rows),
    }
    return {name: [_row(row) for row in rows] for name, rows in parts.items()}


def _row(row: Mapping[str, str]) -> tuple[str, str, str]:
    return _PROMPT, row["text"].strip(), row["category"]
