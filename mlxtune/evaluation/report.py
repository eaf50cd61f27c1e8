"""The report of an evaluation: rates with intervals for each arm, comparisons, and the verdict. No mlx here: faces read it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.evaluation.contract import FORMS, LABELS
from mlxtune.evaluation.evidence import FILES, hashes
from mlxtune.evaluation.resample import Mean, bootstrap
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.statistics import Paired, wilson
from mlxtune.evaluation.verdict import HEADLINE, Comparison, ScoreComparison, compare, compare_scores, correct, sentence

FILE = "report.json"
PAGES = ("report.md", "report.html")  # the same for readers
SEED = 7  # of the bootstrap: the same report every time


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
    """One contestant: its rates, where its answers came from, and how long they took (seconds).

    ``margin`` is by how much it finds chosen answers likelier than rejected ones, in nats a token, where the rows are pairs.
    """

    arm: str
    cached: bool
    seconds: float
    rates: tuple[Rate, ...]
    margin: Mean | None = None

    def rate(self, metric: str) -> Rate:
        """The rate called ``metric``. Raises ``KeyError``."""
        return {rate.metric: rate for rate in self.rates}[metric]


@dataclass(frozen=True)
class Report:
    """``facts`` say what was compared: names, hashes, row ids, decoding.

    ``verdict`` is about the whole contract or, of preference training, about which answers are preferred. ``margins`` compare those of
    the arms.
    """

    facts: dict[str, Any]
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    verdict: str
    margins: tuple[ScoreComparison, ...] = ()

    @property
    def headline(self) -> Comparison | None:
        """The comparison the verdict is about, against what training started from; ``None`` when only the base was measured."""
        return self._last(self.facts.get("headline", HEADLINE))

    @property
    def contract(self) -> Comparison | None:
        """The comparison of the whole contract."""
        return self._last(HEADLINE)

    def _last(self, metric: str) -> Comparison | None:
        return next((item for item in reversed(self.comparisons) if item.metric == metric), None)


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


@dataclass(frozen=True)
class Measured:
    """An arm with the scores of its answers, row by row; ``margins`` are those of pairs in nats a token, likewise."""

    arm: str
    cached: bool
    seconds: float
    scored: Scored
    margins: Sequence[float] = ()


def build(facts: dict[str, Any], arms: Sequence[Measured], groups: Sequence[Hashable] = ()) -> Report:
    """A report on ``arms``, the base first, all on the same rows; the last is also compared with what it started from.

    ``groups`` says which pairs belong together, for the intervals of margins.
    """
    found = tuple(
        Arm(arm.arm, arm.cached, arm.seconds, rates(arm.scored), bootstrap(arm.margins, groups, SEED) if arm.margins else None)
        for arm in arms
    )
    headline = facts.get("headline", HEADLINE)
    against = [(arms[0], arm) for arm in arms[1:]] + ([(arms[-2], arms[-1])] if len(arms) > 2 and arms[-1].arm == "tuned" else [])
    comparisons = correct(
        [
            compare(metric, first.arm, second.arm, _both(metric, first.scored, second.scored))
            for first, second in against
            for metric in max(second.scored, key=len)
            if metric not in FORMS
        ],
        headline,
    )
    margins = tuple(
        compare_scores("margin", first.arm, second.arm, list(zip(first.margins, second.margins, strict=True)), groups, SEED)
        for first, second in against
        if first.margins
    )
    report = Report({**facts, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, found, comparisons, "", margins)
    return replace(report, verdict=_verdict(report))


def _both(metric: str, first: Scored, second: Scored) -> list[tuple[bool, bool]]:
    pairs = zip(first, second, strict=True)
    return [(one[metric].holds, two[metric].holds) for one, two in pairs if metric in one and metric in two]


def _verdict(report: Report) -> str:
    """The headline in words. A preference that was learned at the contract's cost is no gain, whatever it is worth."""
    headline, contract = report.headline, report.contract
    if headline is None or contract is None:
        return "The base is measured. Train, then evaluate the adapter against it."
    told = sentence(headline, LABELS[headline.metric])
    if headline is contract:
        return told
    if contract.word == "worse":
        return f"{sentence(contract, LABELS[contract.metric])} {told}"
    before, after = (f"{count} of {contract.paired.total}" for count in _hits(contract.paired))
    return f"{told} The contract held for {before} answers before and {after} after."


def _hits(paired: Paired) -> tuple[int, int]:
    return paired.both + paired.broken, paired.both + paired.fixed


def save(report: Report, folder: Path) -> None:
    """Write ``report.json``, as ``report.schema.json`` describes it: with the hashes of the files that it can be verified by."""
    write_json(folder / FILE, {"v": 1, **asdict(report), "files": hashes(folder, (*FILES, *PAGES))})


def load(folder: Path) -> Report:
    """The report in ``folder``. Raises ``InputError`` when it is missing or not one of ours."""
    data = read_json(folder / FILE)
    try:
        arms = tuple(_arm(arm) for arm in data["arms"])
        comparisons = tuple(Comparison(**{**item, "paired": Paired(**item["paired"])}) for item in data["comparisons"])
        margins = tuple(ScoreComparison(**item) for item in data.get("margins", []))
        return Report(data["facts"], arms, comparisons, data["verdict"], margins)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE} is not a report of this version: {error}.") from error


def _arm(data: dict[str, Any]) -> Arm:
    given = {"margin": None, **data}  # a report of an older version has none
    margin = Mean(**given["margin"]) if given["margin"] else None
    return Arm(**{**given, "rates": tuple(Rate(**rate) for rate in given["rates"]), "margin": margin})
