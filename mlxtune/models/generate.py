"""Greedy outputs for many prompts at once: the prefix they share is computed once, finished rows leave the batch.

Exact in the sense that matters for an evaluation: the same tokens as one prompt at a time (up to ties that the last bit of a
float decides). Prompts of different length are padded on the left; rotary positions are counted without the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm import batch_generate
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import MlxtuneError, ModelError
from mlxtune.models.grammar import Grammar
from mlxtune.models.prefix import Prefix, share

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

    ``prefix`` is ``share(model, prompts)`` where it is known already; ``grammar`` allows only what it derives. Architectures whose
    cache is not plain keys and values go through mlx-lm's own batched generation. Raises ``MlxtuneError`` where the model gives no
    numbers, and ``ModelError`` for a grammar on such an architecture.
    """
    prefix = prefix or share(model, prompts)
    if prefix is None:
        if grammar:
            raise ModelError("Answers of this architecture cannot be constrained by a grammar.", mend="Leave base+grammar out.")
        return _by_mlx_lm(model, tokenizer, prompts, max_tokens, progress)
    outputs: dict[int, tuple[str, str]] = {}
    tails = [prompt[prefix.tokens :] for prompt in prompts]
    for batch in prefix.batches([len(tail) for tail in tails], max_tokens, batch_size):
        for at, tokens, ended in _decode(prefix, [tails[at] for at in batch], max_tokens, stops, grammar):
            outputs[batch[at]] = (tokenizer.decode(tokens), ended)
            progress(len(outputs), len(prompts))
    return [outputs[at] for at in range(len(prompts))]


def _decode(
    prefix: Prefix, tails: Sequence[Sequence[int]], max_tokens: int, stops: frozenset[int], grammar: Grammar | None
) -> list[tuple[int, list[int], str]]:
    """Greedy tokens of each tail behind the prefix: ``(tail, tokens, why it ended)``."""
    tokens, caches = prefix.rows(tails)
    allowed = grammar.start(len(tails)) if grammar else None
    alive = list(range(len(tails)))
    said: list[list[int]] = [[] for _ in tails]
    ended = ["length"] * len(tails)
    for _ in range(max_tokens):
        hidden = prefix.parts.backbone(tokens, caches)[:, -1]
        logits = prefix.parts.logits(hidden)
        if allowed:
            logits = mx.where(mx.array(allowed.next(alive, logits.shape[-1])), logits, -mx.inf)
        best, broken = mx.argmax(logits, axis=-1), mx.isnan(hidden).any()
        mx.eval(best, broken)
        if broken.item():
            raise MlxtuneError("The model computes no numbers, so its answers would be invented.", mend="Is the adapter whole?")
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
        if not keep:
            break
        if len(keep) < len(alive):
            alive = [alive[place] for place in keep]
            rows = mx.array(keep)
            for cache in caches:
                cache.keep(rows)
        tokens = mx.array([[chosen[place]] for place in keep])
    return [(row, said[row], ended[row]) for row in range(len(tails))]


def _by_mlx_lm(
    model: nn.Module, tokenizer: TokenizerWrapper, prompts: Sequence[Sequence[int]], max_tokens: int, progress: Progress
) -> list[tuple[str, str]]:
    texts = batch_generate(model, tokenizer, [list(prompt) for prompt in prompts], max_tokens=max_tokens).texts
    progress(len(prompts), len(prompts))
    lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    return [(text, "length" if length >= max_tokens else "stop") for text, length in zip(texts, lengths, strict=True)]
