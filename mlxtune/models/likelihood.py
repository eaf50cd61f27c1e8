"""How likely a model finds given answers, many at once, behind a prefix that is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlxtune.models.generate import Progress
from mlxtune.models.prefix import Prefix, Shared, part


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
    tails = [[*prompt[len(prefix) :], *answer[:-1]] for prompt, answer in asked]
    found = [0.0] * len(asked)
    done = 0
    batches = prefix.batches([len(tail) for tail in tails], batch_size, computed=part())
    for batch, hidden, _ in prefix.read(tails, batches):
        answers = [asked[at][1] for at in batch]
        ends = mx.concatenate([hidden[row, -len(answer) :] for row, answer in enumerate(answers)])
        logps = prefix.parts.logp(ends, mx.array([token for answer in answers for token in answer]))
        start = 0
        for at, answer in zip(batch, answers, strict=True):
            found[at] = -float(logps[start : start + len(answer)].sum())
            start += len(answer)
        done += len(batch)
        progress(done, len(asked))
    return found


def _alone(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> float:
    logits = model(mx.array([[*prompt, *answer[:-1]]]))[0, -len(answer) :].astype(mx.float32)
    logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return -float(mx.take_along_axis(logps, mx.array(list(answer))[:, None], axis=-1).sum())
