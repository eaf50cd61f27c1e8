"""A request in the engine: its tokens, text, grammar state and times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.models.detokenizer import Decode, StreamingDetokenizer
from mlxtune.models.grammar import GrammarState
from mlxtune.serving.adapter_pool import LoadedAdapter
from mlxtune.serving.batch_invariance import BatchInvariantScorer
from mlxtune.serving.protocol import Done, FinishReason, GenerateRequest


class ActiveRequest:
    """A request with its tokenized ``prompt``, a limit of ``max_tokens`` for the answer, and the ``seed`` for sampling."""

    def __init__(
        self,
        request: GenerateRequest,
        prompt: Sequence[int],
        max_tokens: int,
        seed: int,
        decode: Decode,
        grammar: GrammarState | None,
    ) -> None:
        self.request, self.prompt, self.max_tokens, self.seed, self.grammar = request, list(prompt), max_tokens, seed, grammar
        self.output: list[int] = []
        self.adapter: LoadedAdapter | None = None
        self.caches: list[Any] = []  # during prefill, for the first ``prefilled`` tokens of the prompt
        self.prefilled = self.cached = self.computed_alone = 0
        self.finished = False
        self._detokenizer = StreamingDetokenizer(decode, request.sampling.stop)
        self._scorer: BatchInvariantScorer | None = None
        self._submitted = time.perf_counter()
        self._started = self._first_token = 0.0

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.output

    @property
    def last_token(self) -> int:
        return self.output[-1] if self.output else self.prompt[-1]

    @property
    def max_positions(self) -> int:
        return len(self.prompt) + self.max_tokens

    def start(self, adapter: LoadedAdapter | None) -> None:
        """Record that the request got a slot."""
        self.adapter = adapter
        self._started = time.perf_counter()

    def mask(self, logits: mx.array) -> mx.array:
        """Return ``logits`` ``(1, vocabulary)`` with tokens that the grammar does not allow at minus infinity."""
        if self.grammar is None:
            return logits
        return mx.where(mx.array(self.grammar.allowed_tokens([0], logits.shape[-1])), logits, -mx.inf)

    def logits_alone(self, model: nn.Module) -> mx.array:
        """Return the next token's logits ``(1, vocabulary)``, computed outside the batch."""
        self._scorer = self._scorer or BatchInvariantScorer(model)
        self.computed_alone += 1
        return self._scorer.logits(self.tokens)

    def append(self, token: int, stop_tokens: frozenset[int]) -> tuple[str, FinishReason | None]:
        """Append ``token``. Return the text that can be shown now, and the reason if the answer ended."""
        self._first_token = self._first_token or time.perf_counter()
        if token in stop_tokens:
            return self._detokenizer.end(), "stop"
        self.output.append(token)
        if self.grammar:
            self.grammar.advance(0, token)
        text = self._detokenizer.add(token)
        if self._detokenizer.stopped:
            return text, "stop"
        if len(self.output) < self.max_tokens:
            return text, None
        return text + self._detokenizer.end(), "stop" if self._detokenizer.stopped else "length"

    def done(self, reason: FinishReason) -> Done:
        """Return the event that ends the request."""
        now = time.perf_counter()
        started = self._started or now
        return Done(
            id=self.id,
            ended=reason,
            prompt_tokens=len(self.prompt),
            cached=self.cached,
            tokens=len(self.output),
            alone=self.computed_alone,
            waited=started - self._submitted,
            first=(self._first_token or now) - started,
            seconds=now - self._submitted,
        )
