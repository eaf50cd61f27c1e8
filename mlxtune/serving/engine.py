"""Continuous batching of many requests on one base model, each with its own adapter, in the one thread that owns MLX.

Each round prefills one block of one prompt; then every adapter with active requests is activated in turn, and each of its requests
gets one token. Requests join after prefill and leave when they finish, so none of them waits for a batch to fill or drain. A GPU
computes the next tokens of a batch while the current ones are read. Other threads submit requests (:meth:`Engine.submit`) and cancel
them (:meth:`Engine.cancel`); results are events.
"""

import base64
import copy
import json
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.machine_load import release_memory
from mlxtune.core.text import one_line
from mlxtune.models.generate import nan_error
from mlxtune.models.grammar import Grammar
from mlxtune.models.head import BackboneHead, split_head
from mlxtune.models.load import LoadedModel, on_gpu
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.models.text_vectors import batches, first_layers, mean_states
from mlxtune.models.thinking import template_variables
from mlxtune.recipe.schema import Thinking
from mlxtune.serving import protocol
from mlxtune.serving.adapter_pool import AdapterPool
from mlxtune.serving.batch_invariance import SAFETY, measure_deviation
from mlxtune.serving.prompt_cache import PromptCache
from mlxtune.serving.request import ActiveRequest
from mlxtune.serving.sampling import TokenChoice, choose_lazily, choose_tokens

PREFILL_BLOCK = 256  # prompt tokens computed before the active requests get their next token
TEXT_BLOCK = 2**12  # characters that are tokenized before their number is checked
MAX_POSITIONS = 65_536  # keys and values of all requests together; a single request may have more
PROMPT_CACHE_BYTES = 2**29
_OTHER_VARIABLES = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}  # which requests cannot set by name


class _DecodeBatch:
    """The active requests for one adapter and their caches. Holds a single request if the model is not ``batchable``.

    ``ahead`` holds the next token of each request and whether its logits are finite, if they are already being computed. The caches
    then include each request's last token.
    """

    def __init__(self, batchable: bool) -> None:
        self.requests: list[ActiveRequest] = []
        self.caches: list[Any] = []
        self.ahead: tuple[mx.array, mx.array] | None = None
        self._batchable = batchable

    def add(self, request: ActiveRequest) -> None:
        new = [cache.merge([cache]) for cache in request.caches] if self._batchable else request.caches
        if self.caches:
            for cache, other in zip(self.caches, new, strict=True):
                cache.extend(other)
        else:
            self.caches = new
        self.requests.append(request)

    def extract(self, index: int) -> list[Any]:
        """Return the caches of one request, which is about to leave."""
        caches = [cache.extract(index) for cache in self.caches] if self._batchable else self.caches
        mx.eval([cache.state for cache in caches])
        return caches

    def remove(self, indices: Collection[int]) -> None:
        keep = [index for index in range(len(self.requests)) if index not in indices]
        self.requests = [self.requests[index] for index in keep]
        if not keep:
            self.caches, self.ahead = [], None
        elif indices:
            rows = mx.array(keep)
            self.ahead = self.ahead and (self.ahead[0][rows], self.ahead[1][rows])
            for cache in self.caches:
                cache.filter(keep)


class _EmbeddingJob:
    """A request for vectors, computed batch by batch while others decode."""

    def __init__(self, id: str, rows: Sequence[Sequence[int]]) -> None:
        self.id, self.rows = id, rows
        self.vectors: list[Any] = [None] * len(rows)
        self._batches = batches(rows)

    def compute_batch(self, head: BackboneHead) -> bool:
        """Compute the next batch. Return ``False`` if there is none."""
        batch = next(self._batches, [])
        if batch:
            for index, vector in zip(batch, np.array(mean_states(head, [self.rows[index] for index in batch])), strict=True):
                self.vectors[index] = vector / max(float(np.linalg.norm(vector)), 1e-9)
        return bool(batch)

    def result(self) -> protocol.Embedded:
        vectors = (base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in self.vectors)
        return protocol.Embedded(self.id, tuple(vectors), sum(map(len, self.rows)))


class Engine:
    """Answers requests with ``loaded`` and its adapters. Create it and call :meth:`run` in the thread that owns MLX.

    ``find_adapter`` returns an adapter by name. Up to ``slots`` requests are active, and ``queue`` more may wait. With
    ``exact``, an answer does not depend on other requests; see ``batch_invariance.py``. ``on_event`` is called from the thread in
    which an event happens.
    """

    def __init__(
        self, loaded: LoadedModel, find_adapter: Callable[[str], AdapterEntry], on_event: Callable[[protocol.Event], None], *,
        slots: int = 16, queue: int = 64, exact: bool = True,
    ) -> None:  # fmt: skip
        self.loaded, self.slots, self.queue, self.exact = loaded, slots, queue, exact
        self.pool = AdapterPool(loaded.model)
        text_config = loaded.source.config.get("text_config") or loaded.source.config
        self.context = int(text_config.get("max_position_embeddings") or 8192)
        deviation = measure_deviation(loaded.model)
        self.batchable = deviation is not None
        self.deviation = deviation or 0.0
        # a cached prompt was computed in different blocks, which also changes logits
        self.prompt_cache = PromptCache(PROMPT_CACHE_BYTES if self.batchable or not exact else 0)
        self._decode = copy.deepcopy(loaded.tokenizer._tokenizer).decode  # a copy: other threads use the tokenizer to submit
        self._templates: dict[TemplateSettings, ChatTemplate] = {}
        self._find_adapter, self._on_event = find_adapter, on_event
        self._changed = threading.Condition()
        self._waiting: deque[ActiveRequest] = deque()
        self._jobs: deque[_EmbeddingJob] = deque()
        self._cancelled: set[str] = set()
        self._closing = False
        self._prefilling: list[ActiveRequest] = []
        self._batches: dict[Any, _DecodeBatch] = {}
        self._active = 0  # requests in prefill or in a batch

    def submit(self, request: protocol.GenerateRequest) -> None:
        """Queue a request. Raises ``InputError`` if it cannot be answered, and ``QueueFullError`` if too many wait."""
        with _unavailable_adapter():
            entry = self._find_adapter(request.adapter) if request.adapter else None
        template = self._template(request, entry)
        prompt = self._encode(request, template)
        room = self.context - len(prompt)
        if room < 1:
            raise protocol.too_long("The prompt", len(prompt), self.context)
        schema, sampling = request.schema, request.sampling
        matcher = Grammar(self.loaded.tokenizer, schema, template.stop_tokens).matcher() if schema is not None else None
        seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
        active = ActiveRequest(request, prompt, template, entry, min(room, sampling.max_tokens), seed, self._decode, matcher)
        with self._changed:
            ahead = len(self._waiting)
            if ahead + self._active >= self.slots + self.queue:
                raise protocol.QueueFullError("Too many requests are waiting.", hint="Try again in a moment.")
            self._on_event(protocol.Accepted(request.id, len(prompt), ahead, seed))
            self._waiting.append(active)
            self._changed.notify()

    def submit_embedding(self, request: protocol.EmbedRequest) -> None:
        """Queue a request for vectors. Raises the same errors as :meth:`submit`."""
        rows = [self._tokens(prompt) for prompt in request.inputs]
        if (longest := max(map(len, rows), default=0)) > self.context:
            raise protocol.too_long("An input", longest, self.context)
        with self._changed:
            if len(self._jobs) >= max(1, self.queue):  # the first one is not waiting
                raise protocol.QueueFullError("Too many requests are waiting.", hint="Try again in a moment.")
            self._jobs.append(_EmbeddingJob(request.id, rows))
            self._changed.notify()

    def cancel(self, id: str) -> None:
        """Cancel a request. Its slot is freed before the next token."""
        with self._changed:
            self._cancelled.add(id)
            self._changed.notify()

    def close(self) -> None:
        """Make :meth:`run` return."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def run(self) -> None:
        """Answer requests until :meth:`close`. Afterward, the model is the base without adapters."""
        while True:
            if not self._active:
                release_memory()
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting or self._cancelled or self._active or self._jobs)
                if self._closing:
                    break
            self._drop_cancelled()
            self._admit()
            if self._prefilling:
                self._guarded([self._prefilling[0]], self._prefill)
            if self._jobs:
                self._embed()
            self._batches = {key: batch for key, batch in self._batches.items() if batch.requests}
            for batch in list(self._batches.values()):
                self._guarded(batch.requests, partial(self._step, batch))
        self.pool.activate(None)

    @cached_property
    def _head(self) -> BackboneHead:
        """The base model split for reading its hidden states. Computed in the thread that owns MLX."""
        return split_head(self.loaded.model)

    def _template(self, request: protocol.GenerateRequest, entry: AdapterEntry | None) -> ChatTemplate:
        """Return the template with the settings of the request and of the adapter's training; for the base, without reasoning."""
        settings = TemplateSettings(entry.thinking, entry.date, entry.template) if entry else TemplateSettings()
        if settings not in self._templates:
            self._templates[settings] = load_template(self.loaded.source, settings, self.loaded.tokenizer)
        template = self._templates[settings]
        if not request.effort and not request.variables:
            return template
        if request.effort not in ("", "none") and not template.thinking.reasons:
            raise InputError("This model's chat template does not support reasoning.", hint="Remove reasoning_effort.")
        known = {*template_variables(template.source), "enable_thinking"} - _OTHER_VARIABLES
        if unknown := sorted(set(request.variables) - known):
            names = ", ".join(sorted(known))
            raise InputError(f"The chat template has no variable named {one_line(unknown[0], 60)}.", hint=f"It has: {names}.")
        mode: Thinking = settings.thinking if not request.effort else "off" if request.effort == "none" else "on"
        mode = template.thinking.mode(request.variables, mode)
        settings = replace(settings, thinking=mode, effort=request.effort, variables=tuple(request.variables.items()))
        return load_template(self.loaded.source, settings, self.loaded.tokenizer)

    def _tokens(self, prompt: protocol.Prompt) -> list[int]:
        """Return the tokens of a raw ``prompt``. Control tokens in its text are encoded as such."""
        if not isinstance(prompt, str):
            size = len(self.loaded.tokenizer)
            if any(not 0 <= token < size for token in prompt):
                raise InputError(f"Token IDs must be from 0 to {size - 1:,}.")
            return list(prompt)
        self._check_text([prompt])
        tokens: list[int] = self.loaded.tokenizer.encode(prompt)
        if tokens[:2] == [self.loaded.tokenizer.bos_token_id] * 2:  # the text begins with the token that the tokenizer adds
            tokens = tokens[1:]
        if not tokens:
            raise InputError("A prompt has no tokens.", hint="Send some text.")
        return tokens

    def _encode(self, request: protocol.GenerateRequest, template: ChatTemplate) -> list[int]:
        if request.prompt is not None:
            return self._tokens(request.prompt)
        self._check_text([turn.content for turn in request.messages], [turn.extra for turn in request.messages], request.tools)
        prompt = template.prompt(request.messages, request.tools)
        if request.tools and prompt == template.prompt(request.messages):
            raise InputError("This model's chat template does not support tools.", hint="Remove them, or describe them as text.")
        return prompt

    def _check_text(self, texts: Sequence[str], *others: Any) -> None:
        """Raise ``InputError`` if ``texts`` or ``others`` are not Unicode, or if ``texts`` are so long that tokenizing them would take long.

        The exact length is checked afterward, because a template may leave out a part.
        """
        try:
            for text in (*texts, json.dumps(others, ensure_ascii=False)):
                text.encode()
        except UnicodeEncodeError as error:
            raise InputError("A text contains an incomplete character (a lone surrogate).", hint="Send valid Unicode.") from error
        count = 0
        blocks = (text[start : start + TEXT_BLOCK] for text in texts for start in range(0, len(text), TEXT_BLOCK))
        for block in blocks if sum(map(len, texts)) > TEXT_BLOCK else ():
            count += len(self.loaded.tokenizer.encode(block, add_special_tokens=False))
            if count > 2 * self.context:
                raise protocol.too_long("The prompt", count, self.context, "more than ")

    def _drop_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            waiting = [request for request in self._waiting if request.id in cancelled]
            self._waiting = deque(request for request in self._waiting if request.id not in cancelled)
            unwanted = [job for job in self._jobs if job.id in cancelled]
            self._jobs = deque(job for job in self._jobs if job.id not in cancelled)
        for job in unwanted:
            self._on_event(protocol.Failed(job.id, InputError("The request was canceled.")))
        for request in waiting:
            self._on_event(request.done("cancelled"))
        for request in [request for request in self._prefilling if request.id in cancelled]:
            self._finish(request, "cancelled")
        for batch in self._batches.values():
            leaving = [index for index, request in enumerate(batch.requests) if request.id in cancelled]
            for index in leaving:
                request = batch.requests[index]
                computed = request.tokens if batch.ahead else request.tokens[:-1]
                self.prompt_cache.put(request.adapter, computed, batch.extract(index))
                self._finish(request, "cancelled")
            batch.remove(leaving)

    def _admit(self) -> None:
        """Assign free slots to waiting requests in first-come, first-served order."""
        while True:
            with self._changed:
                if not self._waiting or self._active >= self.slots:
                    return
                active = [*self._prefilling, *(request for batch in self._batches.values() for request in batch.requests)]
                used = sum(request.max_positions for request in active)
                if used and used + self._waiting[0].max_positions > MAX_POSITIONS:
                    return
                request = self._waiting.popleft()
                self._active += 1
            self._prefilling.append(request)
            self._guarded([request], partial(self._start, request))

    def _start(self, request: ActiveRequest) -> None:
        with _unavailable_adapter():
            adapter = self.pool.load(request.entry.folder) if request.entry else None
        request.start(adapter)
        self.prompt_cache.retain({None, *self.pool.adapters})
        if known := self.prompt_cache.lookup(request.adapter, request.prompt):
            request.caches, request.prefilled = known
            request.cached = request.prefilled

    def _prefill(self) -> None:
        """Compute one block of the first prompt. A request whose prompt is complete joins its batch."""
        request = self._prefilling[0]
        self.pool.activate(request.adapter)
        request.caches = request.caches or make_prompt_cache(self.loaded.model)
        last = len(request.prompt) - 1
        if request.prefilled < last:
            block = request.prompt[request.prefilled : min(request.prefilled + PREFILL_BLOCK, last)]
            self.loaded.model(mx.array([block]), cache=request.caches)
            mx.eval([cache.state for cache in request.caches])
            request.prefilled += len(block)
        if request.prefilled == last:
            self._prefilling.remove(request)
            joined = self._batches.get(request.adapter)
            if joined and joined.ahead:  # read the tokens that are being computed, so that the request can join the batch
                self._guarded(joined.requests, partial(self._step, joined, look_ahead=False))
            batch = self._batches.setdefault(request.adapter if self.batchable else request, _DecodeBatch(self.batchable))
            if self.batchable and last:
                self.prompt_cache.put(request.adapter, request.prompt[:last], request.caches)
            batch.add(request)
            request.caches = []
            mx.clear_cache()

    def _step(self, batch: _DecodeBatch, look_ahead: bool = True) -> None:
        """Generate one token for each request of ``batch``. With ``look_ahead``, begin with the next ones if the device can."""
        requests = batch.requests
        self.pool.activate(requests[0].adapter)
        if self.exact or any(request.matcher for request in requests):
            logits = self._logits(batch, mx.array([request.last_token for request in requests]))
            choices = self._choose_each(requests, logits)
        else:
            logits = None
            choices = self._choose_ahead(batch, look_ahead and on_gpu())
        ended = []
        for index, (request, choice) in enumerate(zip(requests, choices, strict=True)):
            if self._isolated([request], partial(self._extend, batch, index, choice, logits)):
                ended.append(index)
        batch.remove(ended)
        if ended:
            mx.clear_cache()

    def _logits(self, batch: _DecodeBatch, tokens: mx.array) -> mx.array:
        logits: mx.array = self.loaded.model(tokens[:, None], cache=batch.caches)[:, -1].astype(mx.float32)
        return logits

    def _choose_ahead(self, batch: _DecodeBatch, look_ahead: bool) -> list[TokenChoice | Exception]:
        """Choose a token for every request, which may be the one computed ahead, while computing the next one."""
        requests = batch.requests

        def choose(tokens: mx.array, count: int) -> tuple[mx.array, mx.array]:
            return choose_lazily(self._logits(batch, tokens), [request.draw(count) for request in requests])

        chosen = batch.ahead or choose(mx.array([request.last_token for request in requests]), 0)
        batch.ahead = None
        if look_ahead and any(len(request.output) + 1 < request.max_tokens for request in requests):
            batch.ahead = choose(chosen[0], 1)
            mx.async_eval(*batch.ahead)  # type: ignore[no-untyped-call]
        mx.eval(*chosen)
        tokens, finite = (np.array(array).tolist() for array in chosen)
        return [TokenChoice(token, 0.0) if good else nan_error() for token, good in zip(tokens, finite, strict=True)]

    def _extend(self, batch: _DecodeBatch, index: int, choice: TokenChoice | Exception, logits: mx.array | None) -> None:
        """Append the chosen token to a request, and finish it if that ends its answer. Raise ``choice`` if it is an error.

        ``logits`` of the batch are needed only if answers are exact.
        """
        request = batch.requests[index]
        if isinstance(choice, Exception):
            raise choice
        if self.exact and logits is not None and choice.margin < SAFETY * self.deviation:
            alone = request.logits_alone(self.loaded.model)  # which depend on the request alone
            deviation: Any = mx.abs(alone[0] - logits[index]).max().item()
            self.deviation = max(self.deviation, float(deviation))
            (choice,) = self._choose([request], alone)
        computed = [*request.tokens, choice.token] if batch.ahead else request.tokens
        pieces, reason = request.append(choice.token)
        for piece in pieces:
            self._on_event(piece)
        if reason:
            self.prompt_cache.put(request.adapter, computed, batch.extract(index))
            self._finish(request, reason)

    def _embed(self) -> None:
        job = self._jobs[0]
        event: protocol.Event | None = None
        self.pool.activate(None)
        try:
            if not self._head.is_split:
                raise InputError("The hidden states of this architecture cannot be read, so it has no embeddings.")
            with first_layers(self.loaded.model, self._head):
                if not job.compute_batch(self._head):
                    event = job.result()
        except Exception as error:
            event = protocol.Failed(job.id, protocol.known_error(error))
        if event:
            with self._changed:
                self._jobs.popleft()
            self._on_event(event)

    def _choose_each(self, requests: Sequence[ActiveRequest], logits: mx.array) -> list[TokenChoice | Exception]:
        try:
            return [*self._choose(requests, logits)]
        except Exception as error:
            if len(requests) == 1:
                return [error]
            rows = (([request], logits[index : index + 1]) for index, request in enumerate(requests))
            return [choice for row in rows for choice in self._choose_each(*row)]

    def _choose(self, requests: Sequence[ActiveRequest], logits: mx.array) -> list[TokenChoice]:
        if any(request.matcher for request in requests):
            logits = mx.concatenate([request.mask(logits[i : i + 1]) for i, request in enumerate(requests)])
        return choose_tokens(logits, [request.draw() for request in requests])

    def _finish(self, request: ActiveRequest, reason: protocol.FinishReason) -> None:
        self._release(request)
        self._on_event(request.done(reason))

    def _release(self, request: ActiveRequest) -> None:
        request.finished = True
        if request in self._prefilling:
            self._prefilling.remove(request)
        with self._changed:
            self._active -= 1

    def _guarded(self, requests: Sequence[ActiveRequest], work: Callable[[], None]) -> None:
        """Run ``work``. If it raises an error, fail ``requests`` and no others, and drop their batches."""
        affected = set(requests)
        if self._isolated(requests, work):
            self._batches = {key: batch for key, batch in self._batches.items() if not set(batch.requests) & affected}

    def _isolated(self, requests: Sequence[ActiveRequest], work: Callable[[], None]) -> bool:
        """Run ``work``. If it raises an error, fail ``requests``. Return whether all of them are finished."""
        affected = list(requests)
        try:
            work()
            return all(request.finished for request in affected)
        except Exception as error:
            known = protocol.known_error(error)
        for request in affected:
            if not request.finished:
                self._release(request)
                self._on_event(protocol.Failed(request.id, known))
        return True


@contextmanager
def _unavailable_adapter() -> Iterator[None]:
    """Convert errors about a request's adapter to ``AdapterUnavailableError``."""
    try:
        yield
    except MlxtuneError as error:
        raise protocol.AdapterUnavailableError(error.message, hint=error.hint) from error
