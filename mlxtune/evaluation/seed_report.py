"""Compare the adapters that one recipe produces with several training seeds, and recommend one by its validation results."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from mlxtune.evaluation.answers import SeedAnswers, reference_likelihood
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.evaluation.statistics.seed_spread import SeedMean, seed_change, seed_rate


@dataclass(frozen=True)
class SeedResult:
    """One seed's passes on the validation and the held-out rows, the latter with the Wilson interval, and its validation loss.

    The loss is in nats per token of the reference answers, and ``None`` if it could not be computed.
    """

    run: str
    seed: int
    validation_hits: int
    validation_total: int
    validation_loss: float | None
    hits: int
    total: int
    low: float
    high: float


@dataclass(frozen=True)
class SeedReport:
    """The recipe's result over its seeds on the headline metric, and the recommended run.

    ``rate`` and ``change``, from the strongest arm without training (``rival``), are means over seeds.
    """

    seeds: tuple[SeedResult, ...]
    recommended: str
    rate: SeedMean
    rival: str = ""
    change: SeedMean | None = None

    @property
    def chosen(self) -> SeedResult:
        """The recommended seed's result."""
        return next(seed for seed in self.seeds if seed.run == self.recommended)


def recommend(seeds: Sequence[SeedAnswers], metric: str) -> str:
    """Return the run with the most passes on the validation rows; ties go to the lower validation loss, then the earlier seed.

    Held-out rows are not considered, so the recommended run's result on them is unbiased.
    """

    def quality(seed: SeedAnswers) -> tuple[int, float]:
        loss = _loss(seed)
        return _hits(seed, metric), -math.inf if loss is None else -loss

    return max(seeds, key=quality).run


def build_seed_report(
    seeds: Sequence[SeedAnswers], metric: str, groups: Sequence[Hashable], rival: str, rival_scores: Sequence[dict[str, Score]]
) -> SeedReport:
    """Build the report of at least two ``seeds`` on ``metric``. ``groups`` says which held-out rows belong together."""
    rows = [
        index
        for index, row in enumerate(rival_scores)
        if metric in row and all(metric in seed.held_out[index].scores for seed in seeds)
    ]
    groups = [groups[index] for index in rows]
    passed = [[seed.held_out[index].scores[metric].passed for index in rows] for seed in seeds]
    before = [rival_scores[index][metric].passed for index in rows]
    results = []
    for seed, values in zip(seeds, passed, strict=True):
        interval = wilson(sum(values), len(values), effective_n=effective_n(values, groups))
        total = sum(metric in answer.scores for answer in seed.validation)
        results.append(
            SeedResult(
                seed.run, seed.seed, _hits(seed, metric), total, _loss(seed), sum(values), len(values), *interval
            )
        )  # fmt: skip
    changes = [[float(after - first) for after, first in zip(values, before, strict=True)] for values in passed]
    return SeedReport(
        tuple(results), recommend(seeds, metric), seed_rate(passed, groups), rival, seed_change(changes, groups) if rival else None
    )


def _hits(seed: SeedAnswers, metric: str) -> int:
    return sum(answer.scores[metric].passed for answer in seed.validation if metric in answer.scores)


def _loss(seed: SeedAnswers) -> float | None:
    nats, tokens = reference_likelihood(seed.validation)
    return nats / tokens if tokens else None
