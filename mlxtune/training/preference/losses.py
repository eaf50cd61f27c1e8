"""Preference losses and metrics, as functions of the summed log-probabilities of completions, and the objectives that use them.

All follow TRL's definitions, so that results are comparable: c and r are the log-probabilities of the chosen and rejected
completions, c' and r' are the same under the reference, d = (c − c') − (r − r'), |·| is a length in tokens, and σ is the logistic
function.

To add a loss, write a function here and add its name to ``Loss`` in ``recipe/schema.py``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import mlx.core as mx
import mlx.nn as nn

from mlxtune.data import batching
from mlxtune.data.batching import BatchRows, PaddedShapes, Shape, group_pairs
from mlxtune.recipe import MethodSection, TrainingSection
from mlxtune.recipe.schema import Loss
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.objective import Arrays, Counts, TrainingBatch
from mlxtune.training.preference.batches import batch_shape, collate, sides
from mlxtune.training.preference.forward import logps
from mlxtune.training.sft import SFTObjective

ACCURACY = "rewards/accuracies"
METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/margins", ACCURACY,
    "logps/chosen", "logps/rejected", "lengths/chosen", "lengths/rejected",
)  # fmt: skip
DRIFT = ("drift/chosen", "drift/rejected")
MAX_MEAN_LOGP = -1e-6  # avoids the infinite odds of an answer with probability 1


@dataclass(frozen=True)
class PairScores:
    """Log-probabilities in nats, summed over each completion, and lengths in tokens, each float32 ``(pairs,)``."""

    chosen: mx.array
    rejected: mx.array
    ref_chosen: mx.array
    ref_rejected: mx.array
    chosen_length: mx.array
    rejected_length: mx.array
    mean_length: mx.array  # a scalar: the mean length of all chosen completions in the optimizer step

    @property
    def delta(self) -> mx.array:
        """d: how much more strongly the policy prefers the chosen completion than the reference does."""
        return (self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected)

    @property
    def chosen_mean(self) -> mx.array:
        return self.chosen / self.chosen_length

    @property
    def rejected_mean(self) -> mx.array:
        return self.rejected / self.rejected_length


def sigmoid(scores: PairScores, method: MethodSection) -> mx.array:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290, equation 7): −log σ(βd).

    With label smoothing ε, this is conservative DPO (Mitchell 2023): −(1 − ε) log σ(βd) − ε log σ(−βd).
    """
    return _smoothed(method.beta * scores.delta, method.label_smoothing)


def robust(scores: PairScores, method: MethodSection) -> mx.array:
    """Robust DPO is unbiased if labels are flipped with probability ε (Chowdhury et al. 2024, arXiv:2403.00409, equation 10).

    (−(1 − ε) log σ(βd) + ε log σ(−βd)) / (1 − 2ε)
    """
    noise, logits = method.label_smoothing, method.beta * scores.delta
    return (noise * nn.log_sigmoid(-logits) - (1 - noise) * nn.log_sigmoid(logits)) / (1 - 2 * noise)


def ipo(scores: PairScores, method: MethodSection) -> mx.array:
    """IPO (Azar et al. 2023, arXiv:2310.12036, equation 17): ((c − c')/|c| − (r − r')/|r| − 1/(2β))².

    Log-probabilities are means over tokens, not sums, as the authors confirmed to TRL.
    """
    chosen = (scores.chosen - scores.ref_chosen) / scores.chosen_length
    rejected = (scores.rejected - scores.ref_rejected) / scores.rejected_length
    return mx.square(chosen - rejected - 1 / (2 * method.beta))


def hinge(scores: PairScores, method: MethodSection) -> mx.array:
    """SLiC's hinge loss (Zhao et al. 2023, arXiv:2305.10425) on DPO's logits: max(0, 1 − βd)."""
    return nn.relu(1 - method.beta * scores.delta)


def sft(scores: PairScores, method: MethodSection) -> mx.array:
    """Cross-entropy on the chosen completions, which keeps their likelihood high (Pang et al. 2024, arXiv:2404.19733).

    Its mean over the pairs of a step equals the mean over all of their chosen tokens, as in TRL.
    """
    return -scores.chosen / scores.mean_length


def simpo(scores: PairScores, method: MethodSection) -> mx.array:
    """SimPO (Meng et al. 2024, arXiv:2405.14734, equation 6): −log σ(β(c/|c| − r/|r|) − γ), smoothed like :func:`sigmoid`."""
    return _smoothed(method.beta * (scores.chosen_mean - scores.rejected_mean) - method.gamma, method.label_smoothing)


def orpo(scores: PairScores, method: MethodSection) -> mx.array:
    """ORPO (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7): cross-entropy − β log σ(log odds ratio of chosen to rejected).

    The odds are computed from the mean log-probability. The cross-entropy covers the completion, as in the paper; in TRL, it also
    covers the prompt.
    """
    odds_ratio = _log_odds(scores.chosen_mean) - _log_odds(scores.rejected_mean)
    return sft(scores, method) - method.beta * nn.log_sigmoid(odds_ratio)


LOSSES: dict[str, Callable[[PairScores, MethodSection], mx.array]] = {name: globals()[name] for name in get_args(Loss)}


def loss(scores: PairScores, method: MethodSection) -> mx.array:
    """Return the weighted sum of the method's losses for each pair: float32 ``(pairs,)``."""
    weights = method.weights or (1.0,) * len(method.loss)
    return mx.stack([weight * LOSSES[name](scores, method) for name, weight in zip(method.loss, weights, strict=True)]).sum(axis=0)


def kto(logps: mx.array, reference: mx.array, desirable: mx.array, kl: mx.array, method: MethodSection) -> mx.array:
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306, equation 7) for completions ``(rows,)``, each with a label.

    w (1 − σ(β(l − l' − z))) where ``desirable``, w (1 − σ(β(z − l + l'))) elsewhere; z is :func:`kto_reference_point`, and w is the
    weight.
    """
    signs = mx.where(desirable, 1.0, -1.0)
    weights = mx.where(desirable, method.desirable, method.undesirable)
    return weights * mx.sigmoid(-signs * method.beta * (logps - reference - kl))


def kto_reference_point(mismatched: mx.array, reference: mx.array, weights: mx.array) -> mx.array:
    """Return KTO's reference point z: the KL divergence between policy and reference, at least 0, as a scalar without gradient.

    It is estimated from prompts paired with completions of other prompts: ``mismatched`` and ``reference`` are the
    log-probabilities ``(rows,)`` of these completions under the policy and the reference. ``weights``, float32 ``(rows,)``, is 0
    for rows that do not count.
    """
    return mx.stop_gradient(mx.maximum(((mismatched - reference) * weights).sum() / weights.sum(), 0))


def metric_names(method: MethodSection) -> tuple[str, ...]:
    """Return the names of the metrics in :func:`metric_sums`. They are TRL's names if TRL has the metric."""
    return METRICS if method.reference_free else (*METRICS, *DRIFT)


def metric_sums(scores: PairScores, method: MethodSection, weights: mx.array) -> mx.array:
    """Return the sums over pairs of the metrics in :func:`metric_names`: float32 ``(metrics,)``, without gradient.

    ``weights``, float32 ``(pairs,)``, is 0 for pairs that do not count.
    Rewards are β(c − c') or, without a reference, β c/|c|. Accuracy counts the pairs whose chosen reward is higher. Drift is c − c'
    in nats; if both drifts fall, the policy is unlearning both answers (likelihood displacement, arXiv:2410.08847).
    """
    drift = (scores.chosen - scores.ref_chosen, scores.rejected - scores.ref_rejected)
    means = (scores.chosen_mean, scores.rejected_mean)
    chosen, rejected = (method.beta * value for value in (means if method.reference_free else drift))
    rows = [chosen, rejected, chosen - rejected, (chosen > rejected).astype(mx.float32)]
    rows += [scores.chosen, scores.rejected, scores.chosen_length, scores.rejected_length]
    return mx.stop_gradient((mx.stack(rows if method.reference_free else [*rows, *drift]) * weights).sum(axis=1))


def _smoothed(logits: mx.array, smoothing: float) -> mx.array:
    return -(1 - smoothing) * nn.log_sigmoid(logits) - smoothing * nn.log_sigmoid(-logits)


def _log_odds(logp: mx.array) -> mx.array:
    """Return log(p / (1 − p)) for p = exp(``logp``)."""
    logp = mx.minimum(logp, MAX_MEAN_LOGP)
    return logp - mx.log(-mx.expm1(logp))


KTO_METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl")


@dataclass(frozen=True)
class PreferenceObjective:
    """The losses configured in ``method``, over pairs."""

    method: MethodSection
    share_prompts: bool  # a pair's prompt is computed once for both completions
    prefix: int = 0  # tokens that all prompts begin with, which are computed once per batch
    streams: int = 1

    batch_cost = staticmethod(batching.pair_batch_cost)

    @property
    def metric_count(self) -> int:
        return len(metric_names(self.method))

    @property
    def widths(self) -> int:
        return 1 if self.share_prompts else 2

    def means(self, sums: Sequence[float], weight: float, *, at_start: bool = False) -> dict[str, float]:
        names = metric_names(self.method)
        is_reference = at_start and not self.method.reference_free and self.method.reference == "start"  # so all rewards are 0
        omitted = {ACCURACY} if is_reference else set()
        return {name: total / weight for name, total in zip(names, sums, strict=True) if name not in omitted}

    def arrange(self, rows: Sequence[Any], section: TrainingSection) -> BatchRows:
        return partial(
            group_pairs, sides(rows, self.prefix), shared=self.share_prompts, batch_tokens=section.batch_tokens,
            batch_size=section.batch_size, prefix=self.prefix,
        )  # fmt: skip

    def separate(self, rows: Sequence[Any], indices: Sequence[int]) -> list[Sequence[int]]:
        return [indices]

    def batch_shape(self, rows: Sequence[Any], indices: Sequence[int]) -> Shape:
        return batch_shape(rows, indices, self.share_prompts, self.prefix, self.streams)

    def collate(
        self, rows: Sequence[Any], groups: Sequence[Sequence[int]], step: Sequence[int], shapes: PaddedShapes | None = None
    ) -> list[TrainingBatch]:
        share, prefix, streams = self.share_prompts, self.prefix, self.streams
        return [*collate(rows, groups, share_prompts=share, prefix=prefix, streams=streams, step=step, shapes=shapes)]

    def weight(self, counts: Counts) -> int:
        return len(counts)

    def __call__(self, stack: LayerStack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        totals, metrics = [], []
        for stream, part_logps in enumerate(logps(stack, arrays)):
            with stack.streams(stream):
                chosen, rejected = mx.split(part_logps, 2)
                ref_chosen, ref_rejected = mx.split(arrays["reference"][stream], 2)
                lengths = mx.split(mx.maximum(arrays["mask"][stream].sum(axis=1), 1), 2)
                weights = arrays["weights"][stream]
                scores = PairScores(chosen, rejected, ref_chosen, ref_rejected, lengths[0], lengths[1], arrays["mean_length"])
                totals.append((loss(scores, self.method) * weights).sum())
                metrics.append(metric_sums(scores, self.method, weights))
        return mx.stack(totals).sum(), mx.stack(metrics).sum(axis=0)


@dataclass(frozen=True)
class KTOObjective(PreferenceObjective):
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306): completions that are individually labeled desirable or undesirable.

    Each row is paired with another row's completion (the "mismatched" completion in KTO), which is used to estimate the policy's
    distance from the reference. The prompt is computed once for both. The reference point is estimated per batch, as in TRL.
    """

    @property
    def metric_count(self) -> int:
        return len(KTO_METRICS) + 1

    def means(self, sums: Sequence[float], weight: float, *, at_start: bool = False) -> dict[str, float]:
        """Return the means over the rows of each label, NaN if it has no rows; ``kl`` is the mean over all rows."""
        desirable, undesirable, *totals, kl = sums
        counts = (desirable, undesirable)
        means = [total / count if count else math.nan for total, count in zip(totals, counts * 2, strict=True)]
        return dict(zip(KTO_METRICS, [*means[:2], means[0] - means[1], *means[2:], kl / weight], strict=True))

    def __call__(self, stack: LayerStack, arrays: Arrays) -> tuple[mx.array, mx.array]:
        own, mismatched = [], []
        for stream, part_logps in enumerate(logps(stack, arrays)):
            with stack.streams(stream):
                first, second = mx.split(part_logps, 2)
                own.append(first)
                mismatched.append(mx.stop_gradient(second))
        references = [mx.split(reference, 2) for reference in arrays["reference"]]
        policy, labels = mx.concatenate(own), mx.concatenate(arrays["labels"])
        reference = mx.concatenate([first for first, _ in references])
        weights = mx.concatenate(arrays["weights"])
        kl = kto_reference_point(mx.concatenate(mismatched), mx.concatenate([second for _, second in references]), weights)
        method = self.method
        row_losses = kto(policy, reference, labels > 0, kl, method)
        rewards = mx.stop_gradient(method.beta * (policy - reference))
        policy = mx.stop_gradient(policy)
        sides = (labels, weights - labels)
        sums = [*(side.sum() for side in sides), *((value * side).sum() for value in (rewards, policy) for side in sides)]
        return (row_losses * weights).sum(), mx.stack([*sums, kl * weights.sum()])


Objective = SFTObjective | PreferenceObjective
