"""Greedy batch generation: a shared prefix is computed once, and finished rows leave the batch.

The tokens are the same as with one prompt at a time (except for ties decided by rounding). Prompts of different lengths are
left-padded; rotary positions do not count the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import BatchGenerator
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import MlxtuneError, ModelError
from mlxtune.models.cpu.streams import parallel_map
from mlxtune.models.grammar import Grammar
from mlxtune.models.prefix_cache import BatchKVCache, PrefixCache, SharedPrefix, part_size

Progress = Callable[[int, int], None]  # prompts done, total prompts


def generate(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stops: frozenset[int],
    batch_size: int,
    progress: Progress = lambda done, total: None,
    prefix: SharedPrefix | None = None,
    grammar: Grammar | None = None,
) -> list[tuple[str, str]]:
    """Return the greedy answer to each prompt and the reason it ended: ``"stop"`` (a stop token, not in the text) or ``"length"``.

    ``prefix`` is the shared prefix of ``prompts`` if it is already computed; ``grammar`` constrains the output. Architectures whose
    cache is not plain keys and values use mlx-lm's batch generation. ``progress`` is called after every token, and may raise
    to stop. Raises ``MlxtuneError`` for NaN outputs, and ``ModelError`` for a grammar on an architecture that does not support it.
    """
    prefix = prefix or PrefixCache(model)(prompts)
    if prefix is None:
        if grammar:
            raise ModelError("This architecture does not support grammar-constrained answers.", hint="Remove the base+grammar arm.")
        return _generate_with_mlx_lm(model, tokenizer, prompts, max_tokens, stops, batch_size, progress)
    outputs: dict[int, tuple[str, str]] = {}
    tails = [prompt[len(prefix) :] for prompt in prompts]
    for batch in prefix.batches([len(tail) for tail in tails], batch_size, extra=max_tokens):

        def report(ended: int, done: int = len(outputs)) -> None:
            progress(done + ended, len(prompts))

        answers = _decode(prefix, [tails[row] for row in batch], max_tokens, stops, grammar, report)
        for row, (tokens, ended) in zip(batch, answers, strict=True):
            outputs[row] = tokenizer.decode(tokens), ended
    return [outputs[row] for row in range(len(prompts))]


def _decode(
    prefix: SharedPrefix,
    tails: Sequence[Sequence[int]],
    max_tokens: int,
    stops: frozenset[int],
    grammar: Grammar | None,
    report: Callable[[int], None],
) -> list[tuple[list[int], str]]:
    """Return the greedy continuation of each of ``tails``, which are sorted by length, and the reason it ended.

    Prefill is fastest in small parts of equal length, and decoding in large batches, so parts are joined after prefill.
    """
    hidden, caches = _prefill(prefix, tails, report)
    grammar_state = grammar.start(len(tails)) if grammar else None
    active = list(range(len(tails)))
    outputs: list[list[int]] = [[] for _ in tails]
    ended = ["length"] * len(tails)
    for remaining in reversed(range(max_tokens)):
        logits = prefix.head.logits(hidden)
        if grammar_state:
            logits = mx.where(mx.array(grammar_state.allowed_tokens(active, logits.shape[-1])), logits, -mx.inf)
        best, has_nan = mx.argmax(logits, axis=-1), mx.isnan(hidden).any()
        mx.eval(best, has_nan)
        _check_nan(has_nan)
        tokens: list[int] = np.array(best).tolist()
        keep = []
        for index, (row, token) in enumerate(zip(active, tokens, strict=True)):
            if token in stops:
                ended[row] = "stop"
            else:
                outputs[row].append(token)
                keep.append(index)
                if grammar_state:
                    grammar_state.advance(row, token)
        report(len(tails) - len(keep) if remaining else len(tails))
        if not keep or not remaining:
            break
        if len(keep) < len(active):
            active = [active[index] for index in keep]
            rows = mx.array(keep)
            for cache in caches:
                cache.filter(rows)
        hidden = prefix.head.backbone(mx.array([[tokens[index]] for index in keep]), caches)[:, -1]
    return list(zip(outputs, ended, strict=True))


def _prefill(
    prefix: SharedPrefix, tails: Sequence[Sequence[int]], report: Callable[[int], None]
) -> tuple[mx.array, list[BatchKVCache]]:
    """Return the last hidden state of each of ``tails``, ``(rows, hidden)``, and one cache per layer for all rows."""
    hidden, parts = [], []
    batches = prefix.batches([len(tail) for tail in tails], len(tails), max_computed=part_size())
    for _, (states, caches) in parallel_map(lambda batch: prefix.prefill([tails[row] for row in batch]), batches):
        hidden.append(states[:, -1])
        parts.append(caches)
        report(0)
    joined = []
    for layer in range(len(parts[0])):
        joined.append(BatchKVCache.concatenate([caches[layer] for caches in parts]))
        mx.eval(joined[-1].keys, joined[-1].values)
        for caches in parts:
            caches[layer] = joined[-1]  # frees the part
    return mx.concatenate(hidden), joined


def _generate_with_mlx_lm(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stops: frozenset[int],
    batch_size: int,
    progress: Progress,
) -> list[tuple[str, str]]:
    answers: dict[int, tuple[str, str]] = {}
    outputs: list[list[int]] = [[] for _ in prompts]
    generator = BatchGenerator(
        model, max_tokens=max_tokens, stop_tokens=[[stop] for stop in sorted(stops)], completion_batch_size=batch_size
    )
    try:
        rows = {uid: row for row, uid in enumerate(generator.insert([list(prompt) for prompt in prompts]))}
        while responses := generator.next_generated():
            for response in responses:
                row = rows[response.uid]
                if response.finish_reason != "stop":
                    outputs[row].append(response.token)
                if response.finish_reason is not None:
                    _check_nan(mx.isnan(response.logprobs).any())
                    answers[row] = tokenizer.decode(outputs[row]), response.finish_reason
            progress(len(answers), len(prompts))
    finally:
        generator.close()
    return [answers[row] for row in range(len(prompts))]


def _check_nan(has_nan: mx.array) -> None:
    if has_nan.item():
        raise MlxtuneError("The model produced NaNs. The adapter may be corrupt.", hint="Run: mlxtune adapters show NAME")
