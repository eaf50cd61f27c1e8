"""Compute log-likelihoods of given answers in batches. Common prefixes are computed once."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlxtune.core.sequences import grouped
from mlxtune.models.cpu.streams import parallel_map, thread_pool
from mlxtune.models.encoded import common_prefix
from mlxtune.models.generate import Progress
from mlxtune.models.prefix_cache import MAX_POSITIONS, BatchKVCache, PrefixCache, SharedPrefix, batches, forward_in_steps, part_size

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]  # tokenized prompts and answers


@dataclass(frozen=True)
class _AnswerGroup:
    """Answers to one prompt. ``prompt`` is the part after the shared prefix; ``rows`` are the answers' indices in the request.

    All answers start with the ``common`` tokens and then continue. For a single answer, these are all but its last token.
    """

    prompt: Sequence[int]
    rows: Sequence[int]
    answers: Sequence[Sequence[int]]
    common: int

    @property
    def shared_tokens(self) -> list[int]:
        """The tokens that are computed once for all answers."""
        return [*self.prompt, *self.answers[0][: self.common]]

    @property
    def positions(self) -> int:
        """The number of computed positions. An answer's last token is a target only, never an input."""
        return len(self.shared_tokens) + sum(len(answer) - 1 - self.common for answer in self.answers)


def negative_log_likelihoods(
    model: nn.Module, pairs: Pairs, *, batch_size: int, progress: Progress = lambda done, total: None,
    on_answer: Callable[[int, float], None] = lambda pair, nats: None, prefix: SharedPrefix | None = None,
) -> list[float]:  # fmt: skip
    """Return the negative log-likelihood of each answer given its prompt, in nats, summed over the answer's tokens.

    ``pairs`` are tokenized prompts and answers, none empty; ``prefix`` is the prompts' shared prefix if it is already computed.
    ``on_answer`` is called with the index of each pair and its likelihood as soon as it is computed.
    """
    prefix = prefix or PrefixCache(model)([prompt for prompt, _ in pairs])
    nlls: dict[int, float] = {}
    if prefix is None:
        for index, (prompt, answer) in enumerate(pairs):
            tokens = mx.array([[*prompt, *answer[:-1]]])
            logits = model(tokens, cache=make_prompt_cache(model))[0, -len(answer) :].astype(mx.float32)
            logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            nlls[index] = -float(mx.take_along_axis(logps, mx.array(list(answer))[:, None], axis=-1).sum())
            on_answer(index, nlls[index])
            progress(len(nlls), len(pairs))
        return [*nlls.values()]
    groups = _group_by_prompt(pairs, len(prefix), batch_size)
    # each additional answer in a group continues from its own copy of the group's keys and values
    copies = max((len(group.rows) - 1) * (len(prefix) + len(group.shared_tokens)) for group in groups)
    some = batches([group.positions for group in groups], batch_size, extra=len(prefix) + copies, max_computed=part_size())
    for batch, sums in parallel_map(lambda batch: _logps(prefix, [groups[i] for i in batch]), _alternating(list(some))):
        rows = [row for i in batch for row in groups[i].rows]
        values: Any = sums.tolist()
        for row, logp in zip(rows, values, strict=True):
            nlls[row] = -logp
            on_answer(row, nlls[row])
        progress(len(nlls), len(pairs))
    return [nlls[row] for row in range(len(pairs))]


def _alternating(batches: list[list[int]]) -> Iterator[list[int]]:
    """Yield ``batches``, sorted by length, from both ends in turn, so that progress is even; concurrent ones stay together."""
    size = thread_pool().size
    rest = len(batches) % size
    waves = deque(batches[start : start + size] for start in range(rest, len(batches), size))
    while waves:
        yield from waves.pop() if len(waves) % 2 else waves.popleft()
    yield from batches[:rest]


def _group_by_prompt(pairs: Pairs, prefix_length: int, max_answers: int) -> list[_AnswerGroup]:
    """Group ``pairs`` by prompt, with at most ``max_answers`` per group: fewer for long answers, but at least two."""
    groups = []
    for prompt, rows in grouped((tuple(prompt), row) for row, (prompt, _) in enumerate(pairs)).items():
        longest = len(prompt) + max(len(pairs[row][1]) for row in rows)
        size = max(2, min(max_answers, MAX_POSITIONS // longest))
        for some in (rows[start : start + size] for start in range(0, len(rows), size)):
            answers = [pairs[row][1] for row in some]
            common = min(common_prefix(answers), min(map(len, answers)) - 1)
            groups.append(_AnswerGroup(prompt[prefix_length:], some, answers, common))
    return groups


def _logps(prefix: SharedPrefix, groups: Sequence[_AnswerGroup]) -> mx.array:
    """Return the log-probability of each answer in ``groups``, in order, as a lazy float32 array ``(answers,)``."""
    hidden, caches = prefix.prefill([group.shared_tokens for group in groups])
    suffixes = [(line, answer[group.common :]) for line, group in enumerate(groups) for answer in group.answers]
    suffix_states = _suffix_states(prefix, caches, suffixes)
    blocks = [(hidden[line, -1 - group.common : -1], group.answers[0][: group.common]) for line, group in enumerate(groups)]
    for i, (line, suffix) in enumerate(suffixes):
        blocks.append((mx.concatenate([hidden[line, -1:], *suffix_states.get(i, [])]), suffix))
    logps = prefix.head.logp_no_grad(
        mx.concatenate([states for states, _ in blocks]), mx.array([token for _, tokens in blocks for token in tokens])
    )
    ends = np.cumsum([len(tokens) for _, tokens in blocks[:-1]]).tolist()
    sums = [block.sum() for block in mx.split(logps, ends)]
    return mx.stack([sums[line] + own for (line, _), own in zip(suffixes, sums[len(groups) :], strict=True)])


def _suffix_states(
    prefix: SharedPrefix, caches: Sequence[BatchKVCache], suffixes: Sequence[tuple[int, Sequence[int]]]
) -> dict[int, list[mx.array]]:
    """Return the hidden states of all but the last token of each suffix, by index. A suffix continues its row of ``caches``."""
    longer = [(i, line, tokens[:-1]) for i, (line, tokens) in enumerate(suffixes) if len(tokens) > 1]
    states: dict[int, list[mx.array]] = {}
    for batch in batches([len(own) for *_, own in longer], len(longer), extra=len(prefix), max_computed=part_size()):
        indices, lines, inputs = zip(*(longer[place] for place in batch), strict=True)
        width = max(map(len, inputs))
        tokens = mx.array([[*own, *[0] * (width - len(own))] for own in inputs])
        selected = mx.array(lines)
        hidden = forward_in_steps(prefix.head, tokens, [cache.select(selected) for cache in caches])
        states |= {i: [hidden[row, : len(own)]] for row, (i, own) in enumerate(zip(indices, inputs, strict=True))}
    return states
