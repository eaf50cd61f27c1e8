"""What is kept of every row while the source is read once: little, so that memory grows less than the file."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mlxtune.data.checks.look import Look, system
from mlxtune.data.checks.tokens import Tokens
from mlxtune.data.groups import ALIKE, Pair, asked, near
from mlxtune.data.rows import Preference, Row
from mlxtune.data.similar import components, fold

_HASH = 16  # bytes of a row's hash that tell it from all others
VALUES = 40  # different ones of a metadata key or an answer's field, beyond which it is no tag


@dataclass
class Survey:
    """What whole checks are asked with. Lists go by rank among the rows that could be read; ``at`` says which record each is.

    ``share`` is a row's part of the split, where there is one. ``read`` gives a row again by its record's number.
    """

    read: Callable[[int], Row]
    at: array[int] = field(default_factory=lambda: array("i"))
    questions: list[str] = field(default_factory=list)
    systems: array[int] = field(default_factory=lambda: array("q"))
    shares: list[str] = field(default_factory=list)
    hashes: bytearray = field(default_factory=bytearray)  # of each row's content, 16 bytes
    lengths: array[int] = field(default_factory=lambda: array("i"))  # of the whole row, in characters
    answers: array[int] = field(default_factory=lambda: array("i"))  # of what it teaches to say
    pairs: list[tuple[int, int]] = field(default_factory=list)  # lengths of chosen and rejected
    tags: dict[str, Counter[str] | None] = field(default_factory=dict)
    tokens: list[Tokens | None] = field(default_factory=list)

    @cached_property
    def copies(self) -> dict[int, int]:
        """The rank of each row whose content stood there before, to the rank that had it first."""
        first: dict[bytes, int] = {}
        found = {}
        for rank in range(len(self.at)):
            if (before := first.setdefault(bytes(self.hashes[rank * _HASH : (rank + 1) * _HASH]), rank)) != rank:
                found[rank] = before
        return found

    @cached_property
    def openings(self) -> Counter[str]:
        """How often prompts begin with which three words."""
        return Counter(" ".join(question[:80].split()[:3]) for question in self.questions)

    @cached_property
    def links(self) -> list[Pair]:
        """Near twins among the questions, by rank: enough of them to hold each group together."""
        return near(self.questions)

    @cached_property
    def labels(self) -> list[int]:
        """For each rank the lowest rank in its group of near twins."""
        return components(len(self.questions), self.links)

    @property
    def threshold(self) -> float:
        """How much alike two questions must be to be called twins."""
        return ALIKE[0]

    def add(self, look: Look, share: str) -> None:
        """Remember what is needed of a row."""
        row = look.row
        self.at.append(look.at)
        question = fold(asked(row))
        self.questions.append(question)
        self.systems.append(int.from_bytes(hashlib.blake2b(system(row).encode(), digest_size=7).digest()))
        self.shares.append(share)
        self.hashes += bytes.fromhex(row.hash[: 2 * _HASH])
        self.lengths.append(sum(len(part.text) for part in look.parts if part.exact))
        self.answers.append(len(look.target))
        if isinstance(row, Preference):
            self.pairs.append((len(row.chosen), len(row.rejected)))
        for key, value in row.meta.items():
            self._tag(key, value)
        for key, value in _fields(look.target).items():
            self._tag(f"answer.{key}", value)

    def _tag(self, key: str, value: Any) -> None:
        counts = self.tags.setdefault(key, Counter())
        if counts is None or value is None:
            return
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str | int | bool) or (isinstance(one, str) and len(one) > 60):
                self.tags[key] = None
                return
            counts[str(one)] += 1
        if len(counts) > VALUES:
            self.tags[key] = None


def _fields(answer: str) -> dict[str, Any]:
    """The fields of an answer that is a JSON object."""
    if not answer.startswith("{"):
        return {}
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
