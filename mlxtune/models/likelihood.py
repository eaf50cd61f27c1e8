"""How likely a model finds given answers, many at once: what several of them begin with is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.models.generate import Progress
from mlxtune.models.lanes import side_by_side
from mlxtune.models.prefix import POSITIONS, Prefix, Rows, Shared, part, read
from mlxtune.models.template import common_prefix


@dataclass(frozen=True)
class _Stem:
    """Answers to one prompt: ``prompt`` is what it goes on with behind the prefix, ``rows`` are the answers' places in what was asked.

    All answers begin with the same ``common`` tokens, and each has more than these. Of a single answer they are all but the last.
    """

    prompt: Sequence[int]
    rows: Sequence[int]
    answers: Sequence[Sequence[int]]
    common: int

    @property
    def tokens(self) -> list[int]:
        """What is computed once."""
        return [*self.prompt, *self.answers[0][: self.common]]

    @property
    def computed(self) -> int:
        """How many positions: an answer's last token is only predicted."""
        return len(self.tokens) + sum(len(answer) - 1 - self.common for answer in self.answers)


def nats(
    model: nn.Module,
    asked: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_size: int,
    progress: Progress = lambda done, total: None,
    prefix: Prefix | None = None,
) -> list[float]:
    """The negative log-likelihood of each answer behind its prompt, in nats, summed over the answer's tokens.

    ``asked`` are prompts and answers as tokens, none of them empty; ``prefix`` is that of the prompts on ``model`` where it is known already.
    """
    prefix = prefix or Shared(model)([prompt for prompt, _ in asked])
    if prefix is None:
        return [_alone(model, prompt, answer) for prompt, answer in asked]
    stems = _stems(asked, len(prefix), batch_size)
    # several answers go on behind a copy each of what they begin with
    again = max((len(stem.rows) - 1) * (len(prefix) + len(stem.tokens)) for stem in stems)
    found = [0.0] * len(asked)
    done = 0
    batches = prefix.batches([stem.computed for stem in stems], batch_size, more=again, computed=part())
    for batch, sums in side_by_side(batches, lambda batch: _logps(prefix, [stems[at] for at in batch])):
        rows = [row for at in batch for row in stems[at].rows]
        values: Any = sums.tolist()
        for row, logp in zip(rows, values, strict=True):
            found[row] = -logp
        done += len(rows)
        progress(done, len(asked))
    return found


def _stems(asked: Sequence[tuple[Sequence[int], Sequence[int]]], prefix: int, most: int) -> list[_Stem]:
    """``asked`` by prompt: at most ``most`` answers together, of long ones fewer, but two."""
    together: dict[tuple[int, ...], list[int]] = {}
    for row, (prompt, _) in enumerate(asked):
        together.setdefault(tuple(prompt), []).append(row)
    made = []
    for prompt, rows in together.items():
        longest = len(prompt) + max(len(asked[row][1]) for row in rows)
        step = max(2, min(most, POSITIONS // longest))
        for some in (rows[start : start + step] for start in range(0, len(rows), step)):
            answers = [asked[row][1] for row in some]
            common = min(common_prefix(answers), min(map(len, answers)) - 1)
            made.append(_Stem(prompt[prefix:], some, answers, common))
    return made


def _logps(prefix: Prefix, stems: Sequence[_Stem]) -> mx.array:
    """The log-probability of each answer of ``stems``, one stem's after another's: lazy, float32 ``(answers,)``."""
    hidden, caches = prefix.begin([stem.tokens for stem in stems])
    own = [(line, answer[stem.common :]) for line, stem in enumerate(stems) for answer in stem.answers]
    behind = _behind(prefix, caches, own)
    blocks = [(hidden[line, -1 - stem.common : -1], stem.answers[0][: stem.common]) for line, stem in enumerate(stems)]
    blocks += [(mx.concatenate([hidden[line, -1:], *behind.get(at, [])]), answer) for at, (line, answer) in enumerate(own)]
    each = prefix.parts.score(
        mx.concatenate([states for states, _ in blocks]), mx.array([token for _, tokens in blocks for token in tokens])
    )
    ends = np.cumsum([len(tokens) for _, tokens in blocks[:-1]]).tolist()
    sums = [some.sum() for some in mx.split(each, ends)]
    return mx.stack([sums[line] + mine for (line, _), mine in zip(own, sums[len(stems) :], strict=True)])


def _behind(prefix: Prefix, caches: Sequence[Rows], own: Sequence[tuple[int, Sequence[int]]]) -> dict[int, list[mx.array]]:
    """Hidden states of ``own``, tokens each behind a line of ``caches``, but for the last of them: by place, if there are more."""
    longer = [at for at, (_, tokens) in enumerate(own) if len(tokens) > 1]
    found: dict[int, list[mx.array]] = {}
    for batch in prefix.batches([len(own[at][1]) - 1 for at in longer], len(longer), computed=part()):
        some = [longer[at] for at in batch]
        width = max(len(own[at][1]) for at in some) - 1
        tokens = mx.array([[*own[at][1][:-1], *[0] * (width + 1 - len(own[at][1]))] for at in some])
        lines = mx.array([own[at][0] for at in some])
        hidden = read(prefix.parts, tokens, [cache.only(lines) for cache in caches])
        found |= {at: [hidden[row, : len(own[at][1]) - 1]] for row, at in enumerate(some)}
    return found


def _alone(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> float:
    logits = model(mx.array([[*prompt, *answer[:-1]]]))[0, -len(answer) :].astype(mx.float32)
    logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return -float(mx.take_along_axis(logps, mx.array(list(answer))[:, None], axis=-1).sum())
