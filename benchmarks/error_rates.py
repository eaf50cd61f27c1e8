"""Simulate how often verdicts, off-task results, and intervals are wrong, with Monte Carlo errors.

    python benchmarks/error_rates.py [TRIALS]

All rates are those of the functions that evaluations call. A false *better* or *worse* may happen in 2.5% of evaluations, a false *held* or
*dropped* in 5%. Equal arms are the worst case for *worse*; for *better*, it is one baseline that equals the tuned arm among worse ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlxtune.data.rows import Location
from mlxtune.evaluation.judge.judge_report import prediction_powered_mean
from mlxtune.evaluation.off_task import prompts as off_task
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, in_both_conditions
from mlxtune.evaluation.statistics.clusters import effective_groups, effective_n
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.evaluation.statistics.significance import level_for_look
from mlxtune.evaluation.verdict import BestBaseline, compare

ROWS = (20, 43, 72, 150)
BASELINES = (1, 3, 6, 7)
GROUPS = (1, 3, 10, 30)  # rows per group
COPIED = 0.6  # the share of rows that repeat their group's common result
LOOKS = 40

Draws = np.random.Generator


def _passes(draws: Draws, rates: list[float], groups: np.ndarray) -> np.ndarray:
    """Return whether each arm passes each row, as ``(arms, rows)``; the rows of a group are dependent if they are several."""
    shape = len(rates), len(groups)
    common = draws.random((len(rates), groups[-1] + 1))[:, groups]
    chance = np.where(draws.random(shape) < COPIED, common, draws.random(shape))
    return chance < np.array(rates)[:, None]


def _test(passed: np.ndarray, groups: np.ndarray) -> BestBaseline:
    """Return the test of the first arm against the others."""
    hits = passed.sum(1)
    baselines = {str(index): passed[index].tolist() for index in range(1, len(passed))}
    rival = max(reversed(baselines), key=lambda name: hits[int(name)])
    return BestBaseline("", "", passed[0].tolist(), baselines, rival, groups.tolist())


class Rate(NamedTuple):
    """How many of ``trials`` had an outcome."""

    count: int
    trials: int

    def __str__(self) -> str:
        error = math.sqrt(max(self.count, 1) * max(self.trials - self.count, 1) / self.trials**3)
        return f"{100 * self.count / self.trials:.1f} ±{100 * error:.1f}"


class Bias(NamedTuple):
    """The mean of errors in points, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ±{self.error:.2f}"


def _bias(errors: list[float]) -> Bias:
    return Bias(100 * float(np.mean(errors)), 100 * float(np.std(errors)) / math.sqrt(len(errors)))


Table = Iterator[tuple[str | int | Rate | Bias, ...]]


def verdicts(
    trials: int, rows_each: Sequence[int] = ROWS, sizes: Sequence[int] = GROUPS, baselines: Sequence[int] = BASELINES
) -> Table:
    """Yield false verdicts, the coverage of the change from the best baseline, and false verdicts against the luckiest baseline alone."""
    yield "rows", "per group", "baselines", "better %", "worse %", "covered %", "worse, luckiest alone %"
    draws = np.random.default_rng(1)
    for rows in rows_each:
        for size in sizes:
            groups = np.arange(rows) // size
            for count in baselines:
                better = worse = covered = alone = 0
                for _ in range(trials):
                    item = _test(_passes(draws, [0.5, 0.5, *([0.3] * (count - 1))], groups), groups).comparison()
                    better += item.outcome == "better"
                    covered += item.low <= 0 <= item.high
                    test = _test(_passes(draws, [0.5] * (1 + count), groups), groups)
                    worse += test.comparison().outcome == "worse"
                    pairs = list(zip(test.baselines[test.rival], test.passed, strict=True))
                    alone += compare("", "", "", pairs, groups.tolist()).outcome == "worse"
                figures = Rate(better, trials), Rate(worse, trials), Rate(covered, trials), Rate(alone, trials)
                yield rows, size, count, *figures


def looks(trials: int) -> Table:
    """Yield how often a series of looks at equal adapters contains a false *better*."""
    yield "rows", "looks", "better %", "better at 5% each %"
    draws = np.random.default_rng(2)
    for rows in ROWS:
        spent = always = 0
        for _ in range(trials // 2):
            shared = draws.random(rows)
            arms = np.where(draws.random((LOOKS + 1, rows)) < COPIED, shared, draws.random((LOOKS + 1, rows))) < 0.5
            base = arms[0].tolist()
            results = [compare("", "", "", list(zip(base, arm.tolist(), strict=True))) for arm in arms[1:]]
            always += any(item.outcome == "better" for item in results)
            spent += any(item.p < level_for_look(look) and item.outcome == "better" for look, item in enumerate(results, 1))
        yield rows, LOOKS, Rate(spent, trials // 2), Rate(always, trials // 2)


def coverage(trials: int) -> Table:
    """Yield how often the interval of a pass rate covers it, with groups of rows."""
    yield "rows", "per group", "effective groups", *(f"covered at {rate:.0%} %" for rate in (0.5, 0.8, 0.9))
    draws = np.random.default_rng(3)
    for rows in ROWS:
        for size in GROUPS:
            groups = np.arange(rows) // size
            covered = []
            for rate in (0.5, 0.8, 0.9):
                inside = 0
                for _ in range(trials):
                    (passed,) = _passes(draws, [rate], groups).tolist()
                    low, high = wilson(sum(passed), rows, effective_n=effective_n(passed, groups.tolist()))
                    inside += low <= rate <= high
                covered.append(Rate(inside, trials))
            yield rows, size, f"{effective_groups(groups.tolist()):.1f}", *covered


def off_task_results(trials: int) -> Table:
    """Yield false off-task results if the base is weak in every category."""
    yield "prompts", "base %", "flips %", "dropped %", "bias, points", "held at the margin %"
    off_task.fewest_changes = lambda *_: None  # type: ignore[assignment]  # takes most of the time
    OffTaskPrompt.passes = lambda _, output: output == "1"  # type: ignore[method-assign]
    draws, place = np.random.default_rng(4), Location(Path("x"), 1)
    for count in (150, 300):
        prompts = in_both_conditions(
            [OffTaskPrompt(str(at), "", ("1",), place, str(at % 6)) for at in range(count)], "a system prompt"
        )
        for rate, flips in ((0.1, 0.2), (0.1, 0.5), (0.2, 0.2), (0.2, 0.5)):
            dropped, held, changes = 0, 0, []
            for drop in (0.0, off_task.MARGIN):
                for _ in range(trials // 2):
                    base, luck = draws.random(2 * count) < rate, draws.random(2 * count)
                    tuned = np.where(base, luck > flips * (1 - rate) + drop / rate, luck < flips * rate)
                    found = off_task.compare_off_task(prompts, *([str(int(one)) for one in arm] for arm in (base, tuned)))
                    if drop:
                        held += found.outcome == "held"
                    else:
                        dropped += found.outcome == "dropped"
                        changes.append(found.overall.change)
            yield (
                count, round(100 * rate), round(100 * flips), Rate(dropped, trials // 2), _bias(changes), Rate(held, trials // 2)
            )  # fmt: skip


def judges(trials: int) -> Table:
    """Yield the bias and the coverage of the prediction-powered win rate, and the coverage of the votes' alone."""
    yield "votes", "others", "win rate %", "accuracy %", "bias, points", "covered %", "votes alone %"
    draws = np.random.default_rng(5)
    for votes, others in ((8, 8), (8, 64), (20, 64)):
        for rate in (0.15, 0.5, 0.8):
            for accuracy in (0.7, 1.0):
                errors, covered, alone = [], 0, 0
                for _ in range(trials):
                    labels = draws.random(votes + others) < rate
                    judged = (labels == (draws.random(votes + others) < accuracy)).astype(float).tolist()
                    values = labels.astype(float).tolist()
                    mean = prediction_powered_mean(values[:votes], judged[:votes], judged[votes:])
                    errors.append(mean.powered.value - rate)
                    covered += mean.powered.low <= rate <= mean.powered.high
                    alone += mean.labels.low <= rate <= mean.labels.high
                figures = _bias(errors), Rate(covered, trials), Rate(alone, trials)
                yield votes, others, round(100 * rate), round(100 * accuracy), *figures


TABLES = {
    "Verdicts": verdicts, "Repeated looks": looks, "Pass rates": coverage, "Off-task prompts": off_task_results, "Judges": judges
}  # fmt: skip


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for title, table in TABLES.items():
        print(f"\n## {title}\n", flush=True)
        for number, row in enumerate(table(trials)):
            print(f"| {' | '.join(map(str, row))} |", flush=True)
            if number == 0:
                print(f"|{'---|' * len(row)}")


if __name__ == "__main__":
    main()
