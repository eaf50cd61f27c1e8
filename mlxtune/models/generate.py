"""Greedy outputs for many prompts at once: the prefix they share is computed once, finished rows leave the batch.

Exact in the sense that matters for an evaluation: the same tokens as one prompt at a time (up to ties that the last bit of a
float decides). Prompts of different length are padded on the left; rotary positions are counted without the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import BatchGenerator
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import MlxtuneError, ModelError
from mlxtune.models.grammar import Grammar
from mlxtune.models.lanes import side_by_side
from mlxtune.models.prefix import Prefix, Rows, Shared, part

Progress = Callable[[int, int], None]  # prompts done, prompts in all


def generate(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stops: frozenset[int],
    batch_size: int,
    progress: Progress = lambda done, total: None,
    prefix: Prefix | None = None,
    grammar: Grammar | None = None,
) -> list[tuple[str, str]]:
    """For each prompt the greedy answer and why it ended: ``"stop"`` (a stop token, not part of the text) or ``"length"``.

    ``prefix`` is that of ``prompts`` on ``model`` where it is known already; ``grammar`` allows only what it derives. Architectures
    whose cache is not plain keys and values go through mlx-lm's own batched generation. ``progress`` is told at every token, so that
    it can also stop all this by raising. Raises ``MlxtuneError`` where the model gives no numbers, and ``ModelError`` for a grammar
    on such an architecture.
    """
    prefix = prefix or Shared(model)(prompts)
    if prefix is None:
        if grammar:
            raise ModelError("Answers of this architecture cannot be constrained by a grammar.", mend="Leave base+grammar out.")
        return _by_mlx_lm(model, tokenizer, prompts, max_tokens, stops, batch_size, progress)
    outputs: dict[int, tuple[str, str]] = {}
    tails = [prompt[len(prefix) :] for prompt in prompts]
    for batch in prefix.batches([len(tail) for tail in tails], batch_size, more=max_tokens):

        def tell(ended: int, done: int = len(outputs)) -> None:
            progress(done + ended, len(prompts))

        for at, (tokens, ended) in zip(
            batch, _decode(prefix, [tails[at] for at in batch], max_tokens, stops, grammar, tell), strict=True
        ):
            outputs[at] = tokenizer.decode(tokens), ended
    return [outputs[at] for at in range(len(prompts))]


def _decode(
    prefix: Prefix, tails: Sequence[Sequence[int]], max_tokens: int, stops: frozenset[int], grammar: Grammar | None,
    tell: Callable[[int], None],
) -> list[tuple[list[int], str]]:  # fmt: skip
    """The greedy tokens behind the prefix and each of ``tails``, which are sorted by length, and why they end.

    Reading is quick in small parts of equal length, saying in large batches: the tails are read part by part, and go on together.
    """
    hidden, caches = _read(prefix, tails, tell)
    allowed = grammar.start(len(tails)) if grammar else None
    alive = list(range(len(tails)))
    said: list[list[int]] = [[] for _ in tails]
    ended = ["length"] * len(tails)
    for left in reversed(range(max_tokens)):
        logits = prefix.parts.logits(hidden)
        if allowed:
            logits = mx.where(mx.array(allowed.next(alive, logits.shape[-1])), logits, -mx.inf)
        best, broken = mx.argmax(logits, axis=-1), mx.isnan(hidden).any()
        mx.eval(best, broken)
        _require_numbers(broken)
        chosen: list[int] = np.array(best).tolist()
        keep = []
        for place, (row, token) in enumerate(zip(alive, chosen, strict=True)):
            if token in stops:
                ended[row] = "stop"
            else:
                said[row].append(token)
                keep.append(place)
                if allowed:
                    allowed.take(row, token)
        tell(len(tails) - len(keep) if left else len(tails))
        if not keep or not left:
            break
        if len(keep) < len(alive):
            alive = [alive[place] for place in keep]
            rows = mx.array(keep)
            for cache in caches:
                cache.keep(rows)
        hidden = prefix.parts.backbone(mx.array([[chosen[place]] for place in keep]), caches)[:, -1]
    return list(zip(said, ended, strict=True))


def _read(prefix: Prefix, tails: Sequence[Sequence[int]], tell: Callable[[int], None]) -> tuple[mx.array, list[Rows]]:
    """The hidden state behind each of ``tails``, ``(rows, hidden)``, and one cache a layer for all of them."""
    hidden, parts = [], []
    some = prefix.batches([len(tail) for tail in tails], len(tails), computed=part())
    for _, (states, caches) in side_by_side(some, lambda batch: prefix.begin([tails[at] for at in batch])):
        hidden.append(states[:, -1])
        parts.append(caches)
        tell(0)
    joined = []
    for layer in range(len(parts[0])):
        joined.append(Rows.join([caches[layer] for caches in parts]))
        mx.eval(joined[-1].keys, joined[-1].values)
        for caches in parts:
            caches[layer] = joined[-1]  # lets the part go
    return mx.concatenate(hidden), joined


def _by_mlx_lm(
    model: nn.Module, tokenizer: TokenizerWrapper, prompts: Sequence[Sequence[int]], max_tokens: int, stops: frozenset[int],
    batch_size: int, progress: Progress,
) -> list[tuple[str, str]]:  # fmt: skip
    found: dict[int, tuple[str, str]] = {}
    said: list[list[int]] = [[] for _ in prompts]
    batches = BatchGenerator(
        model, max_tokens=max_tokens, stop_tokens=[[stop] for stop in sorted(stops)], completion_batch_size=batch_size
    )
    try:
        rows = {uid: row for row, uid in enumerate(batches.insert([list(prompt) for prompt in prompts]))}
        while responses := batches.next_generated():
            for one in responses:
                row = rows[one.uid]
                if one.finish_reason != "stop":
                    said[row].append(one.token)
                if one.finish_reason is not None:
                    _require_numbers(mx.isnan(one.logprobs).any())
                    found[row] = tokenizer.decode(said[row]), one.finish_reason
            progress(len(found), len(prompts))
    finally:
        batches.close()
    return [found[row] for row in range(len(prompts))]


def _require_numbers(broken: mx.array) -> None:
    if broken.item():
        raise MlxtuneError("The model computes no numbers, so its answers would be invented.", mend="Is the adapter whole?")
