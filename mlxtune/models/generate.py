"""Greedy outputs for many prompts at once: the prefix they share is computed once, finished rows leave the batch.

Exact in the sense that matters for an evaluation: the same tokens as one prompt at a time (up to ties that the last bit of a
float decides). Prompts of different length are padded on the left; rotary positions are counted without the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm import batch_generate
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.models.head import Split, split
from mlxtune.models.template import common_prefix

_GROUPED = ("gemma2",)  # multiplies attention by itself, the query heads of one key head along an axis of their own
Progress = Callable[[int, int], None]  # prompts done, prompts in all


class _Rows:
    """A layer's keys and values for a batch: a shared prefix, then each row's own left-padded tail, then what it says."""

    def __init__(self, prefix: KVCache, shared: int, pads: mx.array, grouped: bool) -> None:
        """``prefix`` holds ``shared`` tokens; ``pads`` ``(rows,)``: padding of each tail."""
        self.prefix, self.pads, self.length, self.grouped = shared, pads, 0, grouped
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        if shared:
            keys, values = (array[:, :, :shared] for array in prefix.state[:2])
            self.keys, self.values = (mx.repeat(array, pads.shape[0], axis=0) for array in (keys, values))

    @property
    def offset(self) -> mx.array:
        """The position of the next token of each row, ``(rows,)``."""
        return self.prefix + self.length - self.pads

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        end = self.prefix + self.length
        new = keys.shape[2]
        if self.keys is None or self.values is None:
            self.keys, self.values = (
                mx.zeros((*keys.shape[:2], 0, keys.shape[3])),
                mx.zeros((*values.shape[:2], 0, values.shape[3])),
            )
        if end + new > self.keys.shape[2]:  # grow in steps: one copy for many tokens
            self.keys, self.values = (
                mx.concatenate([old[:, :, :end], mx.zeros((*like.shape[:2], max(new, 64), like.shape[3]), like.dtype)], axis=2)
                for old, like in ((self.keys, keys), (self.values, values))
            )
        self.keys[:, :, end : end + new] = keys
        self.values[:, :, end : end + new] = values
        self.length += new
        return self.keys[:, :, : end + new], self.values[:, :, : end + new]

    def make_mask(self, length: int, **_: Any) -> mx.array:
        """Bool ``(rows, 1, length, positions)``, with another axis of 1 where heads are grouped: no future, no padding."""
        end = self.prefix + self.length
        at = mx.arange(end + length)
        causal = at[None] <= mx.arange(end, end + length)[:, None]
        seen = (at[None] < self.prefix) | (at[None] >= self.prefix + self.pads[:, None])
        mask = (causal[None] & seen[:, None])[:, None]
        return mask[:, None] if self.grouped else mask

    def keep(self, rows: mx.array) -> None:
        """Let all but ``rows`` go."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values, self.pads = self.keys[rows], self.values[rows], self.pads[rows]


def generate(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stops: frozenset[int],
    batch_size: int,
    progress: Progress = lambda done, total: None,
) -> list[tuple[str, str]]:
    """For each prompt the greedy answer and why it ended: ``"stop"`` (a stop token, not part of the text) or ``"length"``.

    Architectures whose cache is not plain keys and values (sliding windows, recurrent layers) go through mlx-lm's own
    batched generation.
    """
    if not all(type(cache) is KVCache for cache in make_prompt_cache(model)):
        return _by_mlx_lm(model, tokenizer, prompts, max_tokens, progress)
    parts = split(model)
    outputs: dict[int, tuple[str, str]] = {}
    shared = min(common_prefix(prompts), min(map(len, prompts)) - 1)
    prefix = make_prompt_cache(model)
    if shared:
        mx.eval(parts.backbone(mx.array([list(prompts[0][:shared])]), prefix))
    by_length = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    for start in range(0, len(by_length), batch_size):
        group = by_length[start : start + batch_size]
        tails = [prompts[at][shared:] for at in group]
        for at, tokens, ended in _decode(model, parts, prefix, shared, tails, max_tokens, stops):
            outputs[group[at]] = (tokenizer.decode(tokens), ended)
            progress(len(outputs), len(prompts))
    return [outputs[at] for at in range(len(prompts))]


def _decode(
    model: nn.Module,
    parts: Split,
    prefix: list[KVCache],
    shared: int,
    tails: Sequence[Sequence[int]],
    max_tokens: int,
    stops: frozenset[int],
) -> list[tuple[int, list[int], str]]:
    """Greedy tokens of each tail behind the prefix: ``(tail, tokens, why it ended)``."""
    width = max(map(len, tails))
    pads = mx.array([width - len(tail) for tail in tails])
    tokens = mx.array([[0] * (width - len(tail)) + list(tail) for tail in tails])
    grouped = type(model).__module__.rsplit(".", 1)[-1] in _GROUPED
    caches = [_Rows(cache, shared, pads, grouped) for cache in prefix]
    alive = list(range(len(tails)))
    said: list[list[int]] = [[] for _ in tails]
    ended = ["length"] * len(tails)
    for _ in range(max_tokens):
        best = np.array(mx.argmax(parts.logits(parts.backbone(tokens, caches)[:, -1]), axis=-1))
        keep = []
        for place, (row, token) in enumerate(zip(alive, best.tolist(), strict=True)):
            if token in stops:
                ended[row] = "stop"
            else:
                said[row].append(token)
                keep.append(place)
        if not keep:
            break
        if len(keep) < len(alive):
            alive = [alive[place] for place in keep]
            rows = mx.array(keep)
            for cache in caches:
                cache.keep(rows)
        tokens = mx.array(best[keep])[:, None]
    return [(row, said[row], ended[row]) for row in range(len(tails))]


def _by_mlx_lm(
    model: nn.Module, tokenizer: TokenizerWrapper, prompts: Sequence[Sequence[int]], max_tokens: int, progress: Progress
) -> list[tuple[str, str]]:
    texts = batch_generate(model, tokenizer, [list(prompt) for prompt in prompts], max_tokens=max_tokens).texts
    progress(len(prompts), len(prompts))
    lengths = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    return [(text, "length" if length >= max_tokens else "stop") for text, length in zip(texts, lengths, strict=True)]
