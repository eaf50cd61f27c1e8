"""A question on its way through the engine: its tokens so far, its text, its place in a grammar, its times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.models.grammar import Allowed
from mlxtune.serving.exact import Alone
from mlxtune.serving.protocol import Ask, Done, Ending
from mlxtune.serving.swap import Adapter
from mlxtune.serving.words import Decode, Words


class Row:
    """``prompt`` is what the question is in tokens; ``room`` how many the answer may have; ``seed`` what it is drawn with."""

    def __init__(self, ask: Ask, prompt: Sequence[int], room: int, seed: int, decode: Decode, allowed: Allowed | None) -> None:
        self.ask, self.prompt, self.room, self.seed = ask, list(prompt), room, seed
        self.said: list[int] = []
        self.words = Words(decode, ask.sampling.stop)
        self.adapter: Adapter | None = None
        self.caches: list[Any] = []  # while the prompt is read, of its first ``read`` tokens
        self.read = self.cached = self.alone = 0
        self.over = False
        self._allowed = allowed
        self._alone: Alone | None = None
        self._asked = time.perf_counter()
        self._began = self._first = 0.0

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.said

    @property
    def last(self) -> int:
        return self.said[-1] if self.said else self.prompt[-1]

    @property
    def positions(self) -> int:
        """How many it will have at most."""
        return len(self.prompt) + self.room

    def begin(self, adapter: Adapter | None) -> None:
        """It has a place now."""
        self.adapter = adapter
        self._began = time.perf_counter()

    def allow(self, scores: mx.array) -> mx.array:
        """``scores`` ``(1, vocabulary)`` with what its grammar does not allow next at minus infinity."""
        if self._allowed is None:
            return scores
        return mx.where(mx.array(self._allowed.next([0], scores.shape[-1])), scores, -mx.inf)

    @property
    def free(self) -> bool:
        """Whether no grammar holds it."""
        return self._allowed is None

    def scores(self, model: nn.Module) -> mx.array:
        """Scores ``(1, vocabulary)`` of its next token, computed alone."""
        self._alone = self._alone or Alone(model)
        self.alone += 1
        return self._alone.scores(self.tokens)

    def take(self, token: int, stops: frozenset[int]) -> tuple[str, Ending | None]:
        """Go on with ``token``: what can be shown of it, and how the answer ended if it did."""
        self._first = self._first or time.perf_counter()
        if token in stops:
            return self.words.end(), "stop"
        self.said.append(token)
        if self._allowed:
            self._allowed.take(0, token)
        text = self.words.add(token)
        if self.words.stopped:
            return text, "stop"
        if len(self.said) < self.room:
            return text, None
        return text + self.words.end(), "stop" if self.words.stopped else "length"

    def done(self, ended: Ending) -> Done:
        """The event that says so."""
        now = time.perf_counter()
        began = self._began or now
        return Done(
            self.ask.id, ended, len(self.prompt), self.cached, len(self.said), self.alone,
            began - self._asked, (self._first or now) - began, now - self._asked,
        )  # fmt: skip
