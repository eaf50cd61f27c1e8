"""Compare the strongest tuned arm with the best of several baselines, when both were chosen on the rows that they are compared on.

The best of several baselines is partly the luckiest one, so a comparison with it alone says *worse* too often. These are multiple
comparisons with the best (Hsu 1984, Annals of Statistics 12:1136): the arm is *better* if it is better than each baseline (an
intersection–union test, Berger 1982, Technometrics 24:295), at the level divided by the number of tuned arms that it was chosen from,
and *worse* if it is worse than any of them, at the level divided by their number (Bonferroni). The interval follows the same rule.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from mlxtune.evaluation.statistics.intervals import LEVEL
from mlxtune.evaluation.statistics.nearness import fewest_changes
from mlxtune.evaluation.verdict import Comparison, Outcome, compare, decide


@dataclass(frozen=True)
class BestBaseline:
    """Whether the answers of ``arm``, the strongest of ``arms`` tuned arms, pass a metric, and whether those of each baseline do."""

    metric: str
    arm: str
    passed: Sequence[bool]
    baselines: Mapping[str, Sequence[bool]]
    rival: str  # the baseline with the most passes
    groups: Sequence[Hashable] = ()
    arms: int = 1
    level: float = LEVEL

    def comparison(self) -> Comparison:
        """Compare the arm with the best baseline: the change from ``rival``, and the interval of the change from the best one."""
        lower, upper = self._compare(self.level / self.arms), self._compare(self.level / len(self.baselines))
        rival = lower[list(self.baselines).index(self.rival)]
        if rival.change > 0:
            adjusted = self.arms * max(item.p if item.change > 0 else 1.0 for item in lower)
        else:
            adjusted = len(upper) * min(item.p if item.change < 0 else 1.0 for item in upper)
        low, high = min(item.low for item in lower), min(item.high for item in upper)
        outcome = decide(adjusted, low, high, self.level)
        return replace(rival, low=low, high=high, outcome=outcome, adjusted=min(1.0, adjusted), level=self.level)

    def nearness(self, is_turned: Callable[[Outcome], bool], directions: Sequence[bool]) -> int | None:
        """Return the fewest answers of the arm that would have to be different for an outcome that ``is_turned``.

        They change one after another, for each of ``directions`` from passes (``True``) or from failures, beginning with the rows that one
        of the baselines or most of them pass, or with those that they fail. Among dependent rows, the groups in which the arm is most or least ahead of
        the baseline come first, which in rare cases takes a few answers too many.
        """

        def is_turned_by(changed: frozenset[int]) -> bool:
            passed = [value != (index in changed) for index, value in enumerate(self.passed)]
            return is_turned(replace(self, passed=passed).comparison().outcome)

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
