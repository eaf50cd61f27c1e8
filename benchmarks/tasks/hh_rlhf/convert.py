"""HH-RLHF (Bai et al. 2022, arXiv:2204.05862): pairs of answers to the last question of a conversation."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping

from sources import Row, shuffled

_LONGEST = 1200  # characters of a conversation
_CLOSEST = 0.8  # the least ratio of the lengths of held-out answers, so that the longer one cannot win by its length


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Return pairs of short conversations: a tenth of ``rows`` to validate on, and held-out pairs with answers of similar length.

    Held-out pairs, which may be from the same file, have other first questions.
    """
    train, *_, test = [_read(content) for content in files.values()] * 2
    taken = train[:rows]
    asked = {_opening(pair) for pair in taken}
    close = [pair for pair in test if _ratio(pair) >= _CLOSEST and _opening(pair) not in asked]
    return {"train": taken[rows // 10 :], "valid": taken[: rows // 10], "test": close[:held_out]}


def _read(content: bytes) -> list[Row]:
    pairs = [json.loads(line) for line in gzip.decompress(content).decode().splitlines()]
    usable = [pair for pair in pairs if max(map(len, pair.values())) <= _LONGEST and _shares_prompt(pair)]
    return shuffled(usable)


def _opening(pair: Row) -> str:
    opening: str = pair["chosen"].partition("\n\nAssistant:")[0]
    return opening.strip().lower()


def _answer(text: str) -> str:
    return text.rsplit("\n\nAssistant:", 1)[-1].strip()


def _shares_prompt(pair: Row) -> bool:
    chosen, rejected = (pair[key].rpartition("\n\nAssistant:") for key in ("chosen", "rejected"))
    return chosen[0] == rejected[0] and bool(chosen[2].strip()) and bool(rejected[2].strip()) and chosen[2] != rejected[2]


def _ratio(pair: Row) -> float:
    lengths = sorted(len(_answer(pair[key])) for key in ("chosen", "rejected"))
    return lengths[0] / lengths[1]
