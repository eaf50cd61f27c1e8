"""Compare two arms on the same rows: better, worse, or cannot tell; and the verdict that follows from the comparisons."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import NormalDist
from typing import Literal, TypeVar

from mlxtune.core.json_fields import optional
from mlxtune.core.sequences import grouped
from mlxtune.evaluation.statistics.clusters import cluster_mean, effective_n, group_sums, permutation_p
from mlxtune.evaluation.statistics.intervals import LEVEL, PairedCounts, newcombe
from mlxtune.evaluation.statistics.significance import fewest_changes, holm

Outcome = Literal["better", "worse", "cannot_tell"]


@dataclass(frozen=True)
class Comparison:
    """The comparison of ``second`` with ``first`` on one metric: 2×2 table, change with its interval, p-value, and outcome."""

    metric: str
    first: str
    second: str
    paired: PairedCounts
    low: float
    change: float
    high: float
    p: float
    outcome: Outcome
    adjusted: float | None = None  # the p-value after correction for multiple comparisons, which then determines the outcome
    level: float = optional(LEVEL)  # the error rate of the interval and of the outcome

    @property
    def names(self) -> tuple[str, str, str]:
        return self.metric, self.first, self.second


@dataclass(frozen=True)
class ScoreComparison:
    """The comparison of ``second`` with ``first`` on one score: rows that rose, fell or tied, mean change, p-value, and outcome."""

    metric: str
    first: str
    second: str
    rose: int
    fell: int
    tied: int
    low: float
    change: float
    high: float
    p: float
    outcome: Outcome
    adjusted: float | None = None


@dataclass(frozen=True)
class CutAnswers:
    """Answers of ``arm`` that were cut off at ``max_tokens`` and might still have passed: ``count`` of ``rows``."""

    arm: str
    count: int
    rows: int
    max_tokens: int
    thinking: bool  # whether the arm reasons, so that the limit may be that of the reasoning


@dataclass(frozen=True)
class RecipeGain:
    """The mean change of several seeds from the strongest arm without training, with its interval over seeds and rows."""

    seeds: int
    rival: str
    low: float
    change: float
    high: float
    level: float  # the error rate of the interval and of the outcome

    @property
    def outcome(self) -> Outcome:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "cannot_tell"


@dataclass(frozen=True)
class Verdict:
    """What a report concludes about the strongest tuned arm or, with several seeds, about the recipe."""

    outcome: Literal[Outcome, ""]  # empty if nothing was compared
    reason: Literal["change", "recipe", "contract", "token_limit", "no_adapter"]  # the first two are about the headline metric
    metric: str  # the headline metric
    headline: Comparison | None = None
    contract: Comparison | None = None  # the same arms on the contract, if the headline is another metric
    needed_rows: int | None = None  # how many rows it would take to confirm the change, if they are independent and too few
    # the change of the other metrics that got worse if neither the headline nor the contract did
    also_worse: dict[str, float] = field(default_factory=dict)
    grammar: Literal["", "contract", "schema"] = ""  # what a grammar alone, without training, meets on every row
    cut: CutAnswers | None = None  # the cut answers that decide the outcome or, without an adapter, may decide a later one
    # the strongest free arm and its rate on the headline metric, if that is not below the tuned arm's interval and the outcome not better
    free: tuple[str, float] | None = None
    nearness: int | None = (
        None  # the fewest rows whose tuned answers would have to be different for another outcome; with seeds, answers
    )
    recipe: RecipeGain | None = None  # with several seeds
    rates: dict[str, float] = field(default_factory=dict)  # without an adapter, the rates of the arms on the headline metric


Compared = TypeVar("Compared", bound=Comparison | ScoreComparison)


def compare(
    metric: str, first: str, second: str, passed: Sequence[tuple[bool, bool]], groups: Sequence[Hashable] = (), level: float = LEVEL
) -> Comparison:
    """Compare two arms on a pass/fail metric; ``passed`` says, for each row, whether the first and the second arm passed.

    A change counts if its interval (Newcombe) excludes zero and the exact McNemar test agrees at ``level``. With ``groups`` of
    dependent rows, the interval uses the effective number of rows, and the test flips the signs of whole groups. Raises
    ``ValueError`` if there are no rows.
    """
    paired = PairedCounts.count(passed)
    gains, groups = [two - one for one, two in passed], groups or range(len(passed))
    z = NormalDist().inv_cdf(1 - level / 2)
    low, change, high = newcombe(paired, z, effective_n(gains, groups, level))
    p = permutation_p(group_sums(gains, groups))
    return Comparison(metric, first, second, paired, low, change, high, p, decide(p, low, high, level), level=level)


def compare_scores(
    metric: str, first: str, second: str, scores: Sequence[Sequence[float]], groups: Sequence[Hashable]
) -> ScoreComparison:
    """Compare two arms on a numeric score; ``scores`` holds each row's score in the first and the second arm.

    A change counts if its interval (Student's t over groups) excludes zero and the sign test over groups agrees at 5%. There
    must be at least two groups.
    """
    differences = [two - one for one, two in scores]
    mean = cluster_mean(differences, groups)
    rose, fell = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    p = permutation_p([(value > 0) - (value < 0) for value in group_sums(differences, groups)])
    outcome = decide(p, mean.low, mean.high)
    return ScoreComparison(
        metric, first, second, rose, fell, len(scores) - rose - fell, mean.low, mean.value, mean.high, p, outcome
    )


def apply_holm(comparisons: Sequence[Compared], family: Callable[[Compared], Hashable] = lambda item: None) -> tuple[Compared, ...]:
    """Adjust p-values for multiple comparisons (Holm) and update the outcomes.

    The comparisons for which ``family`` returns the same value are adjusted together, by default all.
    """
    adjusted = list(comparisons)
    for indices in grouped((family(item), index) for index, item in enumerate(comparisons)).values():
        for index, p in zip(indices, holm([comparisons[index].p for index in indices]), strict=True):
            item = comparisons[index]
            adjusted[index] = replace(item, adjusted=p, outcome=decide(p, item.low, item.high))
    return tuple(adjusted)


def decide(p: float, low: float, high: float, level: float = LEVEL) -> Outcome:
    """Return the outcome. A change counts only if the test at ``level`` and the interval agree."""
    return "cannot_tell" if p >= level else "better" if low > 0 else "worse" if high < 0 else "cannot_tell"


@dataclass(frozen=True)
class BestBaseline:
    """Whether the answers of ``arm``, the strongest tuned arm, pass a metric, and whether those of each baseline do.

    The best of several baselines is partly the luckiest one, so a comparison with it alone says *worse* too often. These are multiple
    comparisons with the best (Hsu 1984, Annals of Statistics 12:1136): the arm is *better* if it is better than each baseline (an
    intersection–union test, Berger 1982, Technometrics 24:295), at the level divided by the number of tuned arms that it was chosen from,
    and *worse* if it is worse than any of them, at the level divided by their number (Bonferroni). The interval follows the same rule.
    """

    metric: str
    arm: str
    passed: Sequence[bool]
    baselines: Mapping[str, Sequence[bool]]
    rival: str  # the baseline with the most passes
    groups: Sequence[Hashable] = ()
    others: Sequence[Sequence[bool]] = ()  # whether the answers of the other tuned arms pass
    level: float = LEVEL

    def comparison(self) -> Comparison:
        """Compare the arm with the best baseline: the change from ``rival``, and the interval of the change from the best one."""
        arms = 1 + len(self.others)
        lower, upper = self._compare(self.level / arms), self._compare(self.level / len(self.baselines))
        rival = lower[list(self.baselines).index(self.rival)]
        if rival.change > 0:
            adjusted = arms * max(item.p if item.change > 0 else 1.0 for item in lower)
        else:
            adjusted = len(upper) * min(item.p if item.change < 0 else 1.0 for item in upper)
        low, high = min(item.low for item in lower), min(item.high for item in upper)
        outcome = decide(adjusted, low, high, self.level)
        return replace(rival, low=low, high=high, outcome=outcome, adjusted=min(1.0, adjusted), level=self.level)

    def nearness(self, is_turned: Callable[[Outcome], bool], directions: Sequence[bool]) -> int | None:
        """Return the fewest rows whose answers would have to be different, in all tuned arms, for an outcome that ``is_turned``.

        They change one after another, for each of ``directions`` from passes (``True``) or from failures, beginning with the rows that one
        of the baselines or most of them pass, or with those that they fail. Among dependent rows, the groups in which the arm is most or least ahead of
        the baseline come first, which in rare cases takes a few answers too many.
        """

        def is_turned_by(changed: frozenset[int]) -> bool:
            arms = [
                [not self.passed[index] if index in changed else value for index, value in enumerate(own)]
                for own in (self.passed, *self.others)
            ]
            return is_turned(replace(self, passed=max(arms, key=sum)).comparison().outcome)

        rows, groups = range(len(self.passed)), self.groups or range(len(self.passed))
        places = {group: place for place, group in enumerate(dict.fromkeys(groups))}

        counts = [sum(column) for column in zip(*self.baselines.values(), strict=True)]  # of the baselines that pass, for each row

        def order(right: bool, baseline: Sequence[int], first: int, sign: int) -> tuple[int, ...]:
            ahead = [0] * len(places)  # of the baseline, in each group
            for index in rows:
                ahead[places[groups[index]]] += self.passed[index] - baseline[index]

            def key(index: int) -> tuple[int, int, int]:
                place = places[groups[index]]
                return sign * ahead[place], place * abs(sign), first * baseline[index]

            return tuple(sorted((index for index in rows if self.passed[index] is right), key=key))

        signs = (0, 1, -1) if len(places) < len(rows) else (0,)
        orders = {order(*how) for how in product(directions, (*self.baselines.values(), counts), (1, -1), signs)}
        return fewest_changes(sorted(orders), is_turned_by)

    def _compare(self, level: float) -> list[Comparison]:
        return [
            compare(self.metric, name, self.arm, list(zip(passed, self.passed, strict=True)), self.groups, level)
            for name, passed in self.baselines.items()
        ]
