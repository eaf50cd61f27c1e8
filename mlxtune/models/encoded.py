"""Tokenized rows with their loss masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxtune.core.sequences import common_length
from mlxtune.data.rows import Location
from mlxtune.data.template_notes import TemplateNote

Tokens = np.ndarray[Any, np.dtype[np.int32]]
TokenMask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Encoded:
    id: str
    location: Location
    tokens: Tokens  # (tokens,)
    trained: TokenMask  # (tokens,): whether each is a target
    full_length: int  # before truncation to data.max_tokens
    turn: int = 0  # the trained turn's number if each answer of a conversation becomes a row, or the window's in a text; else 0
    notes: frozenset[TemplateNote] = frozenset()  # what the template changes
    replay: bool = False  # an answer of the base, not one of the recipe's rows
    unprefixed: bool = False  # it does not begin with the prefix that the others share

    @property
    def truncated(self) -> bool:
        return self.full_length > len(self.tokens)


@dataclass(frozen=True)
class EncodedPair:
    """A preference pair as tokens. Completions include their stop token."""

    id: str
    location: Location
    prompt: Tokens
    chosen: Tokens
    rejected: Tokens
    full_lengths: tuple[int, int]  # of the completions, before truncation
    reference_logps: tuple[float, float] | None = None  # of both under the reference model, in nats; None before they are computed
    label: bool | None = None  # of an unpaired row, whose ``rejected`` is the completion of another prompt
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
        return np.repeat([False, True, self.label is None], [len(self.prompt), len(self.chosen), len(self.rejected)])

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
    return common_length(low, high)
