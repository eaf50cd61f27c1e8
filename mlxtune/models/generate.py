"""Batch generation: a shared prefix is computed once, and finished rows leave the batch.

The tokens are the same as with one prompt at a time (except for ties decided by rounding). Prompts of different lengths are
left-padded; rotary positions do not count the padding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import BatchGenerator, generate_step
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import MlxtuneError, ModelError
from mlxtune.core.gpu_errors import suppress_model_errors
from mlxtune.core.sequences import grouped
from mlxtune.models.cpu.streams import StreamPool, parallel_map, thread_pool
from mlxtune.models.grammar import Grammar, advance, allowed_tokens
from mlxtune.models.head import BackboneHead
from mlxtune.models.load import on_gpu
from mlxtune.models.prefix_cache import BatchKVCache, PrefixCache, SharedPrefix, batches, part_size, same_logits
from mlxtune.models.thoughts import AnswerBuilder, Ending, GeneratedAnswer, LoopRule

CLEAR_EVERY = 256  # tokens after which free buffers are released: keys and values grow, so old buffers are rarely used again

Progress = Callable[[int, int], None]  # prompts done, total prompts
AnswerListener = Callable[[int, GeneratedAnswer], None]  # the index of a prompt, and its answer
MIN_LANE_ROWS = 32  # minimum number of rows per stream; with 16, a step takes 10 to 15% longer than with one stream for all

_SEED_MULTIPLIER = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, so that neighboring seeds have distant keys

_Chosen = tuple[mx.array, mx.array]  # tokens (rows,) and whether each row's hidden state has a NaN (rows,)


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    max_tokens: int  # of an answer
    stops: frozenset[int]  # tokens that end an answer
    batch_size: int
    thinking_tokens: int = 0  # of a thought before the answer; with 0, thoughts count as part of the answer
    grammar: Grammar | None = None  # constrains answers, but not thoughts
    grammars: Mapping[tuple[int, ...], Grammar] = field(default_factory=dict)  # of prompts that have their own, besides ``grammar``
    thought_starts: Collection[int] = ()  # tokens with which a thought before a constrained answer may begin
    loops: LoopRule | None = None  # ends answers that repeat themselves; not with a grammar, whose length limits may end a loop

    def matcher(self, prompt: Sequence[int]) -> Any:
        """Return the matcher of the grammar of the answer to ``prompt``, or ``None`` if nothing constrains it."""
        return self.grammar and self.grammars.get(tuple(prompt), self.grammar).matcher()


@dataclass(frozen=True)
class PromptGroup:
    """``prompts`` and how to answer them. Groups that are answered together have the same stops and batch size."""

    prompts: Sequence[Sequence[int]]
    settings: GenerationSettings
    prefix: SharedPrefix | None = None  # what all prompts begin with, if it is already computed
    seeds: Sequence[int] = ()  # of sampled answers: one per prompt, 0 for a greedy answer


def generate(
    model: nn.Module, tokenizer: TokenizerWrapper, groups: Sequence[PromptGroup], *,
    progress: Progress = lambda done, total: None, on_answer: AnswerListener = lambda prompt, answer: None,
    on_batch: Callable[[int], None] = lambda waiting: None, on_token: Callable[[int], None] = lambda longest: None,
) -> list[GeneratedAnswer]:  # fmt: skip
    """Return the answers to the prompts of all ``groups``, which share batches: greedy, or sampled (see :class:`TokenSampler`).

    Architectures whose cache is not plain keys and values use mlx-lm's batch generation, or generate one answer at a time if that
    would change their answers.
    ``on_batch`` is called before each batch with the number of prompts that wait for a later one. ``progress`` is called after every
    token, and may raise to stop; before that, ``on_token`` is called with the number of tokens of the batch's longest answer.
    ``on_answer`` is called with each answer as soon as it ends.
    Raises ``MlxtuneError`` for NaN outputs, and ``ModelError`` for a grammar on an architecture that does not support it.
    """
    prefixes = PrefixCache(model)
    rows = [
        _BatchRow(prompt, group.settings, prefix, AnswerBuilder(tokenizer.decode, prompt, *limits, loops=group.settings.loops))
        for group in groups
        for prefix in [group.prefix or prefixes(group.prompts)]
        for limits in [(group.settings.max_tokens, group.settings.thinking_tokens)]
        for prompt in group.prompts
    ]
    sampler = TokenSampler([seed for group in groups for seed in group.seeds or [0] * len(group.prompts)])
    if rows[0].prefix is None:
        return _generate_with_mlx_lm(model, rows, sampler, progress, on_answer, on_token)
    outputs: dict[int, GeneratedAnswer] = {}
    shared = len(rows[0].prefix) if len(groups) == 1 else 0
    extra = shared + max(row.builder.max_tokens + row.builder.thinking_tokens for row in rows)
    for batch in batches([len(row.prompt) - shared for row in rows], rows[0].settings.batch_size, extra=extra):

        def report(ended: int, done: int = len(outputs), batch: Sequence[int] = batch) -> None:
            on_token(max(rows[row].builder.count for row in batch))
            progress(done + ended, len(rows))

        def tell(row: int, answer: GeneratedAnswer, batch: Sequence[int] = batch) -> None:
            on_answer(batch[row], answer)

        on_batch(len(rows) - len(outputs) - len(batch))
        decoder = _BatchDecoder(rows[0].prefix.head, [rows[row] for row in batch], sampler.part(batch), report, tell)
        outputs |= zip(batch, decoder.decode(), strict=True)
    return [outputs[row] for row in range(len(rows))]


class TokenSampler:
    """Chooses the next token of each row: the likeliest one, or a sample at temperature 1 if the row's seed is not 0.

    A sample depends only on the row's seed and the tokens before it, not on the other rows of the batch or the number of cores.
    Rows with equal seeds get equal noise, so rows that should be independent need different seeds.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._positions = [0] * len(seeds)

    def __call__(self, logits: mx.array, rows: Sequence[int]) -> mx.array:
        """Return the tokens ``(rows,)`` for the logits or log-probabilities ``(rows, vocabulary)`` of ``rows``."""
        best = mx.argmax(logits, axis=-1)
        if not any(self._seeds[row] for row in rows):
            return best
        keys = mx.stack([noise_key(self._seeds[row], self._positions[row]) for row in rows])
        for row in rows:
            self._positions[row] += 1
        samples = mx.vmap(lambda row, key: mx.random.categorical(row, key=key))(logits, keys)
        return mx.where(mx.array([self._seeds[row] != 0 for row in rows]), samples, best)

    def part(self, rows: Sequence[int]) -> TokenSampler:
        """Return the sampler of ``rows``, which are numbered from 0."""
        return TokenSampler([self._seeds[row] for row in rows])


def noise_key(seed: int, position: int) -> mx.array:
    """Return the key of the random noise for the token at ``position`` of an answer."""
    key: mx.array = mx.random.key((seed * _SEED_MULTIPLIER + position) % 2**64)
    return key


@dataclass(frozen=True)
class _BatchRow:
    """A prompt, how to answer it, what it shares with others, and its answer so far."""

    prompt: Sequence[int]
    settings: GenerationSettings
    prefix: SharedPrefix | None  # None for architectures that do not share prefixes
    builder: AnswerBuilder


@dataclass
class _Lane:
    """Rows of a batch that are decoded together, on the stream of index ``stream``: their numbers, caches, and last hidden states."""

    stream: int
    rows: list[int]
    caches: list[BatchKVCache]
    hidden: mx.array
    chosen: _Chosen | None = None

    def keep(self, indices: list[int]) -> None:
        self.rows = [self.rows[index] for index in indices]
        for cache in self.caches:
            cache.filter(mx.array(indices))


class _BatchDecoder:
    """Decodes the answers of a batch.

    Prefill is fastest in small parts of equal length, and decoding in large batches, so parts are joined after prefill. On a CPU,
    half of a step is work that a stream does on a single core, so there is one lane per core.
    """

    def __init__(
        self,
        head: BackboneHead,
        rows: Sequence[_BatchRow],
        sampler: TokenSampler,
        report: Callable[[int], None],
        tell: AnswerListener,
    ) -> None:
        self._head, self._rows, self._sampler, self._report, self._tell = head, rows, sampler, report, tell
        self._settings = rows[0].settings
        self._matchers = [row.settings.matcher(row.prompt) for row in rows]
        self._constrained = any(self._matchers)
        self._answers: dict[int, GeneratedAnswer] = {}

    def decode(self) -> list[GeneratedAnswer]:
        pool, generated = thread_pool(), 0
        lanes = _prefill(self._rows, self._report, max(1, min(pool.size, len(self._rows) // MIN_LANE_ROWS)))
        try:
            while lanes:
                self._step(pool, lanes)
                lanes = [lane for lane in lanes if lane.rows]
                generated += 1
                self._report(len(self._answers))
                if generated % CLEAR_EVERY == 0:
                    mx.clear_cache()
        finally:
            pool.share_cores(1)
        return [self._answers[row] for row in range(len(self._rows))]

    def _step(self, pool: StreamPool, lanes: Sequence[_Lane]) -> None:
        """Add a token to the answer of every row in ``lanes``. Rows whose answers end leave their lanes."""
        pool.share_cores(len(lanes))
        for lane in lanes:
            with pool(lane.stream):
                lane.chosen = lane.chosen or self._choose(lane, lane.hidden)
        chosen = [lane.chosen for lane in lanes if lane.chosen]
        following: list[_Chosen | None] = [None] * len(lanes)
        builders = (self._rows[row].builder for lane in lanes for row in lane.rows)
        if on_gpu() and not self._constrained and any(builder.may_continue for builder in builders):
            # compute the next tokens while these are read
            following = [self._choose_after(lane, tokens) for lane, (tokens, _) in zip(lanes, chosen, strict=True)]
            mx.async_eval(following)
        mx.eval(chosen)
        for lane, (tokens, has_nan), ahead in zip(lanes, chosen, following, strict=True):
            going_on = self._read(lane, tokens, has_nan)
            with pool(lane.stream):
                if 0 < len(going_on) < len(lane.rows):
                    rows = mx.array(going_on)
                    tokens, ahead = tokens[rows], ahead and (ahead[0][rows], ahead[1][rows])
                    lane.keep(going_on)
                elif not going_on:
                    lane.rows = []
                    continue
                lane.chosen = ahead or self._choose_after(lane, tokens)

    def _choose(self, lane: _Lane, hidden: mx.array) -> _Chosen:
        """Return the next token of each row and whether its hidden state has a NaN, both lazily."""
        logits = self._head.logits(hidden)
        if self._constrained:
            starts, size = self._settings.thought_starts, logits.shape[-1]
            allowed = [allowed_tokens(self._matchers[row], self._rows[row].builder.splitter, starts, size) for row in lane.rows]
            logits = mx.where(mx.array(np.stack(allowed)), logits, -mx.inf)
        return self._sampler(logits, lane.rows), mx.isnan(hidden).any(axis=-1)

    def _choose_after(self, lane: _Lane, tokens: mx.array) -> _Chosen:
        return self._choose(lane, self._head.backbone(tokens[:, None], lane.caches)[:, -1])

    def _read(self, lane: _Lane, tokens: mx.array, has_nan: mx.array) -> list[int]:
        """Add the chosen tokens to the answers. Return the indices of the rows that continue."""
        if np.array(has_nan).any():  # has_nan.any() would be an operation after those of the next tokens
            raise nan_error()
        going_on, stops = [], self._settings.stops
        for index, (row, token) in enumerate(zip(lane.rows, np.array(tokens).tolist(), strict=True)):
            builder = self._rows[row].builder
            constrained = not builder.splitter.unconstrained
            ending: Ending = "stop" if token in stops else builder.add(token)
            if self._matchers[row] and token not in stops and constrained and not builder.splitter.unconstrained:
                advance(self._matchers[row], token)
            if ending:
                self._answers[row] = builder.finish(ending)
                self._tell(row, self._answers[row])
            else:
                going_on.append(index)
        return going_on


def _prefill(rows: Sequence[_BatchRow], report: Callable[[int], None], lanes: int) -> list[_Lane]:
    """Return ``lanes`` lanes with the last hidden state of each row's prompt, ``(rows, hidden)``, and one cache per layer."""
    numbers: list[list[int]] = [[] for _ in range(lanes)]
    hidden: list[list[mx.array]] = [[] for _ in range(lanes)]
    parts: list[list[list[BatchKVCache]]] = [[] for _ in range(lanes)]
    by_prefix = grouped((row.prefix, number) for number, row in enumerate(rows) if row.prefix is not None)
    work = [
        (prefix, [own[index] for index in part], [rows[own[index]].prompt[len(prefix) :] for index in part])
        for prefix, own in by_prefix.items()
        for part in batches(
            [len(rows[number].prompt) - len(prefix) for number in own],
            max(1, len(rows) // lanes),
            extra=len(prefix),
            max_computed=part_size(),
        )
    ]

    def prefill(part: tuple[SharedPrefix, list[int], list[Sequence[int]]]) -> tuple[mx.array, list[BatchKVCache]]:
        states, caches = part[0].prefill(part[2])
        return states[:, -1], caches if len(by_prefix) == 1 else [cache.without_prefix() for cache in caches]

    for (_, part, _), (states, caches) in parallel_map(prefill, work):
        lane = min(range(lanes), key=lambda lane: len(numbers[lane]))
        numbers[lane] += part
        hidden[lane].append(states)
        parts[lane].append(caches)
        report(0)
    return [_Lane(lane, numbers[lane], _joined(parts[lane]), mx.concatenate(hidden[lane])) for lane in range(lanes)]


def _joined(parts: list[list[BatchKVCache]]) -> list[BatchKVCache]:
    """Return one cache per layer for the rows of all ``parts``, which are freed."""
    if len(parts) == 1:
        return parts[0]
    joined = []
    for layer in range(len(parts[0])):
        joined.append(BatchKVCache.concatenate([caches[layer] for caches in parts]))
        mx.eval(joined[-1].arrays)
        for caches in parts:
            caches[layer] = joined[-1]  # frees the part
    return joined


_Prompts = Sequence[Sequence[int]]  # their tokens
_Step = tuple[int, int, mx.array, bool]  # prompt, token, log-probabilities, and whether the token is a stop token
_batching_models: dict[int, bool] = {}  # the results of _batches_correctly by the IDs of living models


def _generate_with_mlx_lm(
    model: nn.Module, rows: Sequence[_BatchRow], sampler: TokenSampler, progress: Progress, on_answer: AnswerListener,
    on_token: Callable[[int], None],
) -> list[GeneratedAnswer]:  # fmt: skip
    if any(row.settings.grammar for row in rows):
        hint = "Remove the arms with a grammar from evaluation.arms."
        raise ModelError("This architecture does not support grammar-constrained answers.", hint=hint)
    answers: dict[int, GeneratedAnswer] = {}
    prompts, builders = [row.prompt for row in rows], [row.builder for row in rows]
    settings = replace(rows[0].settings, max_tokens=max(builder.most_tokens for builder in builders))
    if id(model) not in _batching_models:
        _batching_models[id(model)] = _batches_correctly(model)
        weakref.finalize(model, _batching_models.pop, id(model), None)
    steps = _batch_steps if _batching_models[id(model)] else _single_steps
    for row, token, logprobs, stopped in steps(model, prompts, settings, sampler, answers):
        ending: Ending = "stop" if stopped else builders[row].add(token)
        if ending:
            if mx.isnan(logprobs).any():
                raise nan_error()
            answers[row] = builders[row].finish(ending)
            on_answer(row, answers[row])
        on_token(max(builder.count for prompt, builder in enumerate(builders) if prompt == row or prompt not in answers))
        progress(len(answers), len(prompts))
    return [answers[row] for row in range(len(prompts))]


def _batch_steps(
    model: nn.Module, prompts: _Prompts, settings: GenerationSettings, sampler: TokenSampler, answered: Collection[int]
) -> Iterator[_Step]:
    """Generate with mlx-lm's batch generator. Answers end when the caller adds their prompts to ``answered``."""
    generator = BatchGenerator(
        model,
        max_tokens=settings.max_tokens,
        stop_tokens=[[stop] for stop in sorted(settings.stops)],
        completion_batch_size=settings.batch_size,
    )
    try:
        samplers = [partial(sampler, rows=[row]) for row in range(len(prompts))]
        rows = {uid: row for row, uid in enumerate(generator.insert([list(prompt) for prompt in prompts], samplers=samplers))}
        while responses := generator.next_generated():
            for response in responses:
                row = rows[response.uid]
                yield row, response.token, response.logprobs, response.finish_reason == "stop"
                if row in answered and response.finish_reason is None:
                    generator.remove([response.uid])
    finally:
        generator.close()


def _single_steps(
    model: nn.Module, prompts: _Prompts, settings: GenerationSettings, sampler: TokenSampler, answered: Collection[int]
) -> Iterator[_Step]:
    """Generate one answer at a time, with the arguments of :func:`_batch_steps`."""
    for row, prompt in enumerate(prompts):
        own = partial(sampler, rows=[row])
        for token, logprobs in generate_step(mx.array(list(prompt)), model, max_tokens=settings.max_tokens, sampler=own):
            yield row, token, logprobs, token in settings.stops
            if row in answered:
                break


def _batches_correctly(model: nn.Module) -> bool:
    """Whether mlx-lm's batch generator gives the same results as the model does for each row, verified on two short prompts.

    For some architectures, it fails or ignores the padding.
    """
    prompts = [[1, 5, 2, 9, 4, 7], [1, 5, 3]]
    batched: list[list[mx.array]] = [[], []]
    greedy, settings = TokenSampler([0, 0]), GenerationSettings(max_tokens=2, stops=frozenset(), batch_size=2)
    with suppress_model_errors():
        for row, _, logprobs, _ in _batch_steps(model, prompts, settings, greedy, ()):
            batched[row].append(logprobs)
        single = [step[2] for step in _single_steps(model, prompts, settings, greedy, ())]
        return same_logits(mx.stack([*batched[0], *batched[1]]), mx.stack(single))
    return False


def nan_error() -> MlxtuneError:
    return MlxtuneError("The model produced NaNs, perhaps because its adapter is corrupt.", hint="Run: mlxtune adapters show NAME")
