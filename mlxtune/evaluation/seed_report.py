"""Compare the adapters that one recipe produces with several training seeds, and recommend one by its validation results."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean, stdev, variance

from mlxtune.evaluation.answers import SeedAnswers, reference_likelihood
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import LEVEL, Estimate, t_quantile, wilson
from mlxtune.evaluation.statistics.significance import fewest_changes
from mlxtune.evaluation.verdict import RecipeGain, Verdict


@dataclass(frozen=True)
class SeedMean:
    """The mean of a value over seeds and rows, with its 95% interval for another seed and other rows."""

    mean: Estimate
    spread: float  # the standard deviation between the seeds' means
    chance: float  # the standard deviation expected by chance alone


def seed_rate(passed: Sequence[Sequence[bool]], groups: Sequence[Hashable]) -> SeedMean:
    """Return the mean pass rate; ``passed`` holds each seed's rows. The interval is Wilson's for the mean's variance."""
    value, error, t, spread, chance = _crossed(passed, groups)
    rows = len(groups)
    size = min(value * (1 - value) / error**2, rows * len(passed)) if error else effective_n([*passed[0]], groups)
    low, high = wilson(value * size, size, z=t)
    return SeedMean(Estimate(low, value, high), spread, chance)


def seed_change(changes: Sequence[Sequence[float]], groups: Sequence[Hashable], level: float = LEVEL) -> SeedMean:
    """Return the mean change from another arm, between −1 and 1 for each row; ``changes`` holds each seed's rows.

    The variance includes two additional rows, one fixed and one broken (Bonett and Price 2012), so that identical rows do not prove
    equality.
    """
    value, error, t, spread, chance = _crossed(changes, groups, level, extra=(1.0, -1.0))
    return SeedMean(Estimate(value - t * error, value, value + t * error), spread, chance)


def _crossed(
    values: Sequence[Sequence[float]], groups: Sequence[Hashable], level: float = LEVEL, extra: Sequence[float] = ()
) -> tuple[float, float, float, float, float]:
    """Return the mean over crossed rows and seeds, its standard error, the t quantile, the observed spread, and that expected by chance.

    The variance of the mean is that of the rows' means over rows plus that of the seeds' means over seeds. It is conservative,
    because both contain the residual. ``extra`` rows only count for the variance over rows. The degrees of freedom are Satterthwaite's (1946).
    """
    seed_means = [fmean(row) for row in values]
    row_means = [fmean(column) for column in zip(*values, strict=True)]
    mean, rows, seeds = fmean(seed_means), len(row_means), len(seed_means)
    size = effective_n(row_means, groups)
    over_rows = variance([*row_means, *extra]) / size if rows + len(extra) > 1 else 0.0
    over_seeds = variance(seed_means) / seeds
    total = over_rows + over_seeds
    freedom = total**2 / (over_rows**2 / max(1.0, size - 1) + over_seeds**2 / (seeds - 1)) if total else math.inf
    residual = math.fsum(
        (value - seed_mean - row_mean + mean) ** 2
        for seed_values, seed_mean in zip(values, seed_means, strict=True)
        for value, row_mean in zip(seed_values, row_means, strict=True)
    )
    chance = math.sqrt(residual / max(1, (rows - 1) * (seeds - 1)) / size)
    return mean, math.sqrt(total), t_quantile(freedom, level), stdev(seed_means), chance


@dataclass(frozen=True)
class SeedResult:
    """One seed's passes on the validation and the held-out rows, the latter with the Wilson interval, and its validation loss."""

    run: str
    seed: int
    validation_hits: int
    validation_total: int
    validation_loss: float | None  # in nats per token of the reference answers
    hits: int
    total: int
    low: float
    high: float


@dataclass(frozen=True)
class SeedReport:
    """The recipe's result over its seeds on the headline metric, and the recommended run."""

    seeds: tuple[SeedResult, ...]
    recommended: str
    rate: SeedMean
    change: RecipeGain
    nearness: int | None  # the fewest answers of the seeds that would have to be different for another outcome
    looks_spent: bool  # whether the recipe would have been better at the first look at these rows

    @property
    def chosen(self) -> SeedResult:
        return next(seed for seed in self.seeds if seed.run == self.recommended)


def recommend(seeds: Sequence[SeedAnswers], metric: str) -> str:
    """Return the run with the most passes on the validation rows; ties go to the lower validation loss, then the earlier seed.

    Held-out rows are not considered, so the recommended run's result on them is unbiased.
    """
    return max(seeds, key=lambda seed: (_hits(seed, metric), -math.inf if (loss := _loss(seed)) is None else -loss)).run


def build_seed_report(
    seeds: Sequence[SeedAnswers],
    metric: str,
    groups: Sequence[Hashable],
    baselines: Mapping[str, Sequence[dict[str, Score]]],
    level: float = LEVEL,
) -> SeedReport:
    """Build the report of at least two ``seeds`` on ``metric``. ``groups`` says which held-out rows belong together.

    The recipe is better if it is better than each of the ``baselines``, of which the first is the strongest, and worse if it is worse than
    one of them at the ``level`` divided by their number (see :class:`~mlxtune.evaluation.verdict.BestBaseline`).
    """
    scores = [*baselines.values(), *([answer.scores for answer in seed.held_out] for seed in seeds)]
    rows = [index for index in range(len(groups)) if all(metric in own[index] for own in scores)]
    groups = [groups[index] for index in rows]
    passed = [[seed.held_out[index].scores[metric].passed for index in rows] for seed in seeds]
    results = []
    for seed, values in zip(seeds, passed, strict=True):
        interval = wilson(sum(values), len(values), effective_n=effective_n(values, groups))
        total = sum(metric in answer.scores for answer in seed.validation)
        results.append(
            SeedResult(
                seed.run, seed.seed, _hits(seed, metric), total, _loss(seed), sum(values), len(values), *interval
            )
        )  # fmt: skip
    before = [[own[index][metric].passed for index in rows] for own in baselines.values()]

    def gain(passed: Sequence[Sequence[bool]], level: float = level) -> RecipeGain:
        changes = [
            [[float(after - first) for after, first in zip(values, own, strict=True)] for values in passed] for own in before
        ]
        lower, upper = ([seed_change(one, groups, error).mean for one in changes] for error in (level, level / len(changes)))
        return RecipeGain(
            len(seeds), next(iter(baselines)), min(one.low for one in lower), lower[0].value, min(one.high for one in upper), level
        )

    change, recommended = gain(passed), recommend(seeds, metric)
    looks_spent = change.outcome == "cannot_tell" and gain(passed, LEVEL).outcome == "better"
    return SeedReport(
        tuple(results), recommended, seed_rate(passed, groups), change, _nearness(passed, before[0], gain), looks_spent
    )


def _nearness(
    passed: Sequence[Sequence[bool]], rival: Sequence[bool], gain: Callable[[Sequence[Sequence[bool]]], RecipeGain]
) -> int | None:
    """Return the fewest answers of the seeds that would have to be different for another outcome; in rare cases, a few too many.

    They change row by row, or seed by seed from the one with the most or the fewest passes, beginning with the rows that the ``rival``
    passes, or with the others.
    """
    outcome, rows, hits = gain(passed).outcome, len(rival), [*map(sum, passed)]

    def is_turned(changed: frozenset[int]) -> bool:
        now = [[value != (seed * rows + row in changed) for row, value in enumerate(own)] for seed, own in enumerate(passed)]
        return gain(now).outcome != outcome

    def order(right: bool, by_seed: int, first: bool) -> list[int]:
        own = [place for place in range(rows * len(passed)) if bool(passed[place // rows][place % rows]) is right]

        def key(place: int) -> tuple[int, int, bool, int]:
            seed, row = divmod(place, rows)
            return by_seed * hits[seed], abs(by_seed) * seed, rival[row] is first, row

        return sorted(own, key=key)

    directions = {"better": (True,), "worse": (False,)}.get(outcome, (True, False))
    return fewest_changes((order(*how) for how in product(directions, (0, 1, -1), (True, False))), is_turned)


def recipe_verdict(verdict: Verdict, seeds: SeedReport) -> Verdict:
    """Return the verdict about the recipe, unless the contract or the token limit decides about the recommended seed."""
    outcome, reason = (seeds.change.outcome, "recipe") if verdict.reason == "change" else (verdict.outcome, verdict.reason)
    nearness = seeds.nearness if reason == "recipe" else verdict.nearness
    free = None if outcome == "better" else verdict.free
    return replace(verdict, outcome=outcome, reason=reason, needed_rows=None, free=free, nearness=nearness, recipe=seeds.change)


def _hits(seed: SeedAnswers, metric: str) -> int:
    return sum(answer.scores[metric].passed for answer in seed.validation if metric in answer.scores)


def _loss(seed: SeedAnswers) -> float | None:
    nats, tokens = reference_likelihood(seed.validation)
    return nats / tokens if tokens else None
