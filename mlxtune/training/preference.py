"""Losses that prefer one answer to another, as functions of summed log-probabilities, and what to watch while they fall.

Each is TRL's definition, so that results can be compared: c and r are the log-probabilities of the chosen and the rejected
completion, c' and r' the same under the reference, d = (c − c') − (r − r'), |·| a length in tokens, σ the logistic function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlxtune.recipe import MethodSection

METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected", "lengths/chosen", "lengths/rejected",
)  # fmt: skip
DRIFT = ("drift/chosen", "drift/rejected")
SURE = -1e-6  # mean log-probability above which an answer counts as certain: the odds of a certain one are infinite


@dataclass(frozen=True)
class Scores:
    """What the losses see of pairs: each float32 ``(pairs,)``, in nats summed over a completion, or lengths in tokens.

    ``mean_length`` is the scalar mean length of the chosen completions over the whole optimizer step.
    """

    chosen: mx.array
    rejected: mx.array
    ref_chosen: mx.array
    ref_rejected: mx.array
    chosen_length: mx.array
    rejected_length: mx.array
    mean_length: mx.array

    @property
    def delta(self) -> mx.array:
        """d: how much more than the reference the policy prefers the chosen one."""
        return (self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected)

    @property
    def chosen_mean(self) -> mx.array:
        """c / |c|"""
        return self.chosen / self.chosen_length

    @property
    def rejected_mean(self) -> mx.array:
        """r / |r|"""
        return self.rejected / self.rejected_length


def metrics(by: MethodSection) -> tuple[str, ...]:
    """What :func:`measure` measures, by TRL's names where TRL has them."""
    return METRICS if by.reference_free else (*METRICS, *DRIFT)


def sigmoid(scores: Scores, by: MethodSection) -> mx.array:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290, equation 7): −log σ(βd).

    With label smoothing ε it is conservative DPO (Mitchell 2023): −(1 − ε) log σ(βd) − ε log σ(−βd).
    """
    return _smoothed(by.beta * scores.delta, by.label_smoothing)


def robust(scores: Scores, by: MethodSection) -> mx.array:
    """Unbiased under labels that are wrong with probability ε (Chowdhury et al. 2024, arXiv:2403.00409, equation 10):
    (−(1 − ε) log σ(βd) + ε log σ(−βd)) / (1 − 2ε)."""
    wrong, logits = by.label_smoothing, by.beta * scores.delta
    return (wrong * nn.log_sigmoid(-logits) - (1 - wrong) * nn.log_sigmoid(logits)) / (1 - 2 * wrong)


def ipo(scores: Scores, by: MethodSection) -> mx.array:
    """IPO (Azar et al. 2023, arXiv:2310.12036, equation 17): ((c − c')/|c| − (r − r')/|r| − 1/(2β))².

    Means over tokens, not sums, as its authors confirmed to TRL's.
    """
    chosen = (scores.chosen - scores.ref_chosen) / scores.chosen_length
    rejected = (scores.rejected - scores.ref_rejected) / scores.rejected_length
    return mx.square(chosen - rejected - 1 / (2 * by.beta))


def hinge(scores: Scores, by: MethodSection) -> mx.array:
    """SLiC's hinge (Zhao et al. 2023, arXiv:2305.10425) on DPO's logits: max(0, 1 − βd)."""
    return nn.relu(1 - by.beta * scores.delta)


def sft(scores: Scores, by: MethodSection) -> mx.array:
    """Cross-entropy of the chosen completions, which keeps them likely (Pang et al. 2024, arXiv:2404.19733).

    Its mean over the pairs of a step is the mean over all their chosen tokens, as in TRL.
    """
    return -scores.chosen / scores.mean_length


def simpo(scores: Scores, by: MethodSection) -> mx.array:
    """SimPO (Meng et al. 2024, arXiv:2405.14734, equation 6): −log σ(β(c/|c| − r/|r|) − γ), smoothed like :func:`sigmoid`."""
    return _smoothed(by.beta * (scores.chosen_mean - scores.rejected_mean) - by.gamma, by.label_smoothing)


def orpo(scores: Scores, by: MethodSection) -> mx.array:
    """ORPO (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7): cross-entropy − β log σ(log odds of chosen to rejected).

    The odds are those of the mean log-probability. Cross-entropy is over the completion, as in the paper; TRL's takes in the prompt.
    """
    odds = _log_odds(scores.chosen_mean) - _log_odds(scores.rejected_mean)
    return sft(scores, by) - by.beta * nn.log_sigmoid(odds)


def kto(
    logps: mx.array, reference: mx.array, desirable: mx.array, kl: mx.array, *, beta: float, good: float = 1.0, bad: float = 1.0
) -> mx.array:
    """KTO (Ethayarajh et al. 2024, arXiv:2402.01306, equation 7) for completions ``(rows,)`` that are good or bad by themselves.

    w (1 − σ(β(l − l' − z))) where ``desirable``, w (1 − σ(β(z − l + l'))) elsewhere; z is :func:`kto_point`, and the weights w are
    ``good`` and ``bad``.
    """
    signs = mx.where(desirable, 1.0, -1.0)
    return mx.where(desirable, good, bad) * mx.sigmoid(-signs * beta * (logps - reference - kl))


def kto_point(mismatched: mx.array, reference: mx.array) -> mx.array:
    """KTO's reference point z, a scalar without a gradient: how far the policy is from the reference, and at least 0.

    Estimated on prompts with completions of other prompts: their log-probabilities ``(rows,)`` under policy and reference.
    """
    return mx.stop_gradient(mx.maximum((mismatched - reference).mean(), 0))


LOSSES: dict[str, Callable[[Scores, MethodSection], mx.array]] = {
    "sigmoid": sigmoid, "ipo": ipo, "hinge": hinge, "robust": robust, "sft": sft, "simpo": simpo, "orpo": orpo,
}  # fmt: skip


def loss(scores: Scores, by: MethodSection) -> mx.array:
    """The weighted sum of the losses of ``by``, for each pair: float32 ``(pairs,)``."""
    weights = by.weights or (1.0,) * len(by.loss)
    return mx.stack([weight * LOSSES[name](scores, by) for name, weight in zip(by.loss, weights, strict=True)]).sum(axis=0)


def measure(scores: Scores, by: MethodSection) -> mx.array:
    """Sums over the pairs of everything in :func:`metrics`, in that order: float32 ``(metrics,)``, without a gradient.

    Rewards are β(c − c') or, without a reference, β c/|c|. Accuracies count the pairs whose chosen reward is the higher one. Drift
    is c − c' in nats: when that of both falls, the policy learns to say neither (likelihood displacement, arXiv:2410.08847).
    """
    drift = (scores.chosen - scores.ref_chosen, scores.rejected - scores.ref_rejected)
    means = (scores.chosen_mean, scores.rejected_mean)
    chosen, rejected = (by.beta * value for value in (means if by.reference_free else drift))
    rows = [chosen, rejected, chosen - rejected, (chosen > rejected).astype(mx.float32)]
    rows += [scores.chosen, scores.rejected, scores.chosen_length, scores.rejected_length]
    return mx.stop_gradient(mx.stack(rows if by.reference_free else [*rows, *drift]).sum(axis=1))


def _smoothed(logits: mx.array, wrong: float) -> mx.array:
    return -(1 - wrong) * nn.log_sigmoid(logits) - wrong * nn.log_sigmoid(-logits)


def _log_odds(logp: mx.array) -> mx.array:
    """log(p / (1 − p)) of p = exp(``logp``)."""
    logp = mx.minimum(logp, SURE)
    return logp - mx.log(-mx.expm1(logp))
