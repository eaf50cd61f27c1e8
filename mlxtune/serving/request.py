"""A request in the engine: its tokens, text, grammar state and times."""

import json
import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.models.detokenizer import Decode, StreamingDetokenizer
from mlxtune.models.grammar import advance, allowed_tokens
from mlxtune.models.template import ChatTemplate
from mlxtune.models.thoughts import PROMPT_TAIL, ThoughtSplitter
from mlxtune.models.tool_calls import CallSplitter
from mlxtune.serving.adapter_pool import LoadedAdapter
from mlxtune.serving.batch_invariance import BatchInvariantScorer
from mlxtune.serving.protocol import Done, FinishReason, GenerateRequest, Piece, ToolCall
from mlxtune.serving.sampling import Draw


class ActiveRequest:
    """A request with its tokenized ``prompt``, the ``template`` that it was rendered with, and the ``seed`` for sampling.

    ``max_tokens`` limits the answer together with the reasoning before it. ``entry`` is the adapter, ``None`` for the base model.
    """

    def __init__(
        self, request: GenerateRequest, prompt: Sequence[int], template: ChatTemplate, entry: AdapterEntry | None, max_tokens: int,
        seed: int, decode: Decode, matcher: Any,
    ) -> None:  # fmt: skip
        self.request, self.prompt, self.max_tokens, self.seed, self.matcher = request, list(prompt), max_tokens, seed, matcher
        self.template, self.entry = template, entry
        self.output: list[int] = []
        self.reasoning_tokens = 0
        self.adapter: LoadedAdapter | None = None
        self.caches: list[Any] = []  # during prefill, for the first ``prefilled`` tokens of the prompt
        self.prefilled = self.cached = self.computed_alone = 0
        self.finished = False
        self._detokenizer = StreamingDetokenizer(decode, request.sampling.stop)
        self._splitter = ThoughtSplitter(decode(self.prompt[-PROMPT_TAIL:]) if request.prompt is None else "")
        self._splitter.answering = request.prompt is not None  # what follows a raw prompt is shown as it is
        self._calls = CallSplitter(template.calls, request.tools if request.schema is None else ())
        self._reasoned = False  # whether any reasoning has been shown
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

    def draw(self, ahead: int = 0) -> Draw:
        """Return how the token is chosen that follows the next ``ahead`` ones."""
        return self.request.sampling, self.seed, len(self.output) + ahead

    @property
    def max_positions(self) -> int:
        return len(self.prompt) + self.max_tokens

    def start(self, adapter: LoadedAdapter | None) -> None:
        """Record that the request got a slot."""
        self.adapter = adapter
        self._started = time.perf_counter()

    def mask(self, logits: mx.array) -> mx.array:
        """Return ``logits`` ``(1, vocabulary)`` with tokens that the grammar does not allow at minus infinity."""
        if self.matcher is None:
            return logits
        allowed = allowed_tokens(self.matcher, self._splitter, self.template.thought_starts, logits.shape[-1])
        return mx.where(mx.array(allowed), logits, -mx.inf)

    def logits_alone(self, model: nn.Module) -> mx.array:
        """Return the next token's logits ``(1, vocabulary)``, computed outside the batch."""
        self._scorer = self._scorer or BatchInvariantScorer(model)
        self.computed_alone += 1
        return self._scorer.logits(self.tokens)

    def append(self, token: int) -> tuple[list[Piece | ToolCall], FinishReason | None]:
        """Append ``token``. Return the parts of reasoning and answer that can be shown now, and the reason if the answer ended."""
        self._first_token = self._first_token or time.perf_counter()
        if token in self.template.stop_tokens:
            return self._pieces(self._detokenizer.end(), ended=True), "stop"
        self.output.append(token)
        unconstrained, thinking = self._splitter.unconstrained, self._splitter.thinking
        text = self._detokenizer.add(token)
        reason: FinishReason | None = None
        if self._detokenizer.stopped:
            reason = "stop"
        elif len(self.output) == self.max_tokens:
            text += self._detokenizer.end()
            reason = "stop" if self._detokenizer.stopped else "length"
        pieces = self._pieces(text, ended=reason is not None)
        if thinking or self._splitter.thinking:
            self.reasoning_tokens = len(self.output)
        if self.matcher and not unconstrained and not self._splitter.unconstrained:
            advance(self.matcher, token)
        return pieces, reason

    def _pieces(self, text: str, *, ended: bool) -> list[Piece | ToolCall]:
        thought, answer = self._splitter.add(text)
        if ended:
            rest = self._splitter.end()
            thought, answer = thought + rest[0], answer + rest[1]
        answer = self._calls.add(answer)
        last, calls = self._calls.end() if ended else ("", [])
        answer += last
        thought = thought if self._reasoned else thought.lstrip()
        self._reasoned = self._reasoned or bool(thought)
        pieces = [Piece(self.id, part, kind) for part, kind in ((thought, True), (answer, False)) if part]
        return [*pieces, *(ToolCall(self.id, call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in calls)]

    def done(self, reason: FinishReason) -> Done:
        now = time.perf_counter()
        started = self._started or now
        return Done(
            id=self.id, ended=reason, prompt_tokens=len(self.prompt), cached=self.cached, tokens=len(self.output),
            alone=self.computed_alone, waited=started - self._submitted, first=(self._first_token or now) - started,
            seconds=now - self._submitted, reasoning_tokens=self.reasoning_tokens if self._reasoned else 0,
        )  # fmt: skip
