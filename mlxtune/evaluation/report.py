"""The report of an evaluation: rates with intervals for each arm, comparisons, and the verdict. No mlx here: faces read it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.evaluation.contract import FORMS, LABELS
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.statistics import Paired, wilson
from mlxtune.evaluation.verdict import Comparison, compare, correct, sentence

FILE = "report.json"


@dataclass(frozen=True)
class Rate:
    """How many outputs hold on one metric, with the 95 % Wilson interval, and the classes of those that do not.

    ``mean`` is the mean of the scores' values, for metrics that have values.
    """

    metric: str
    hits: int
    total: int
    low: float
    high: float
    failures: dict[str, int] = field(default_factory=dict)
    mean: float | None = None

    @property
    def share(self) -> float:
        return self.hits / self.total


@dataclass(frozen=True)
class Arm:
    """One contestant: its rates, where its answers came from, and how long they took (seconds)."""

    arm: str
    cached: bool
    seconds: float
    rates: tuple[Rate, ...]

    def rate(self, metric: str) -> Rate:
        """The rate called ``metric``. Raises ``KeyError``."""
        return {rate.metric: rate for rate in self.rates}[metric]


@dataclass(frozen=True)
class Report:
    """``facts`` say what was compared: names, hashes, row ids, decoding. ``verdict`` is about the whole contract."""

    facts: dict[str, Any]
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    verdict: str

    @property
    def headline(self) -> Comparison | None:
        """The comparison the verdict is about; ``None`` when only the base was measured."""
        return next((item for item in self.comparisons if item.metric == "contract"), None)


Scored = Sequence[dict[str, Score]]


def rates(scored: Scored) -> tuple[Rate, ...]:
    """The rates of one arm's scored outputs, each over the outputs that the metric was asked of. Raises ``ValueError`` for none."""
    if not scored:
        raise ValueError("no outputs have no rates")
    found = []
    for metric in max(scored, key=len):
        scores = [row[metric] for row in scored if metric in row]
        hits = sum(score.holds for score in scores)
        failures = Counter(score.kind for score in scores if not score.holds)
        values = [score.value for score in scores if score.value is not None]
        mean = sum(values) / len(values) if values else None
        found.append(Rate(metric, hits, len(scores), *wilson(hits, len(scores)), dict(failures.most_common()), mean))
    return tuple(found)


def build(facts: dict[str, Any], arms: Sequence[tuple[str, bool, float, Scored]]) -> Report:
    """A report on ``arms``: ``(name, cached, seconds, scored outputs)``, the base first, all on the same rows."""
    found = tuple(Arm(name, cached, seconds, rates(scored)) for name, cached, seconds, scored in arms)
    base, *others = arms
    comparisons = correct(
        [
            compare(
                metric, base[0], name, [(one[metric].holds, two[metric].holds) for one, two in zip(base[3], scored, strict=True)]
            )
            for name, _, _, scored in others
            for metric in scored[0]
            if metric not in FORMS
        ]
    )
    headline = next((item for item in comparisons if item.metric == "contract"), None)
    verdict = (
        sentence(headline, LABELS["contract"]) if headline else "The base is measured. Train, then evaluate the adapter against it."
    )
    return Report({**facts, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, found, comparisons, verdict)


def save(report: Report, folder: Path) -> None:
    """Write ``report.json``."""
    write_json(folder / FILE, {"v": 1, **asdict(report)})


def load(folder: Path) -> Report:
    """The report in ``folder``. Raises ``InputError`` when it is missing or not one of ours."""
    data = read_json(folder / FILE)
    try:
        arms = tuple(Arm(**{**arm, "rates": tuple(Rate(**rate) for rate in arm["rates"])}) for arm in data["arms"])
        comparisons = tuple(Comparison(**{**item, "paired": Paired(**item["paired"])}) for item in data["comparisons"])
        return Report(data["facts"], arms, comparisons, data["verdict"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE} is not a report of this version: {error}.") from error
