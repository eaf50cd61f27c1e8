"""Tokenized rows with their loss masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxtune.data.rows import Location
from mlxtune.data.template_notes import TemplateNote

Tokens = np.ndarray[Any, np.dtype[np.int32]]
TokenMask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Encoded:
    """A row as tokens. ``tokens`` and ``trained`` (whether each is a target) have shape ``(tokens,)``.

    ``full_length`` is the number of tokens before truncation to ``data.max_tokens``. ``turn`` is the number of the trained turn in
    the conversation if each answer becomes a separate row, else 0. ``notes`` say what the template changes. A ``replay`` row
    contains an answer of the base, and is not one of the recipe's rows. A ``bare`` row does not begin with
    the prefix that the others share.
    """

    id: str
    location: Location
    tokens: Tokens
    trained: TokenMask
    full_length: int
    turn: int = 0
    notes: frozenset[TemplateNote] = frozenset()
    replay: bool = False
    bare: bool = False

    @property
    def truncated(self) -> bool:
        return self.full_length > len(self.tokens)


@dataclass(frozen=True)
class EncodedPair:
    """A preference pair as tokens ``(prompt,)``, ``(chosen,)`` and ``(rejected,)``. Completions include their stop token.

    ``full_lengths`` are the lengths of the completions before truncation. ``reference_logps`` are the log-probabilities of
    chosen and rejected under the reference model, in nats, or None before they are computed. ``label`` is set for an unpaired
    row; then ``chosen`` is the row's completion and ``rejected`` the completion of another prompt.
    """

    id: str
    location: Location
    prompt: Tokens
    chosen: Tokens
    rejected: Tokens
    full_lengths: tuple[int, int]
    reference_logps: tuple[float, float] | None = None
    label: bool | None = None
    notes: frozenset[TemplateNote] = frozenset()

    @property
    def tokens(self) -> Tokens:
        """Prompt, chosen and rejected, concatenated."""
        return np.concatenate([self.prompt, self.chosen, self.rejected])

    @property
    def common_length(self) -> int:
        """Length of the common prefix of both completions, at most all but the last token of either."""
        limit = min(len(self.chosen), len(self.rejected)) - 1
        differ = np.flatnonzero(self.chosen[:limit] != self.rejected[:limit])
        return int(differ[0]) if differ.size else limit

    @property
    def trained(self) -> TokenMask:
        """Which of ``tokens`` are targets. In an unpaired row, only its own completion is trained on."""
        index = np.arange(len(self.prompt) + len(self.chosen) + len(self.rejected))
        own = index < len(self.prompt) + len(self.chosen)
        return (index >= len(self.prompt)) & (own if self.label is not None else True)

    @property
    def full_length(self) -> int:
        """Number of tokens in all three parts before truncation."""
        return len(self.prompt) + sum(self.full_lengths)

    @property
    def reference_means(self) -> tuple[float, float]:
        """``reference_logps`` per token of each completion."""
        assert self.reference_logps is not None
        chosen, rejected = self.reference_logps
        return chosen / len(self.chosen), rejected / len(self.rejected)

    @property
    def truncated(self) -> bool:
        return (len(self.chosen), len(self.rejected)) != self.full_lengths


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Return the length of the longest common prefix of ``rows``, or 0 if there are no rows."""
    if not rows:
        return 0
    low, high = min(rows, key=tuple), max(rows, key=tuple)
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
