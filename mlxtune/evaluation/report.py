"""The report of an evaluation: rates with intervals for each arm, comparisons, and the verdict. No mlx here: faces read it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.evaluation.arms import GRAMMAR, TUNED
from mlxtune.evaluation.clusters import worth
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
    ``perplexity`` is exp of the mean negative log-likelihood of the references' tokens; ``None`` where it was not computed.
    """

    arm: str
    cached: bool
    seconds: float
    rates: tuple[Rate, ...]
    margin: Mean | None = None
    perplexity: float | None = None

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
        """The comparison the verdict is about: of what was tuned, against the strongest other arm; ``None`` when nothing was tuned."""
        return self._over_strongest(self.facts.get("headline", HEADLINE))

    @property
    def contract(self) -> Comparison | None:
        """The comparison of the whole contract, likewise."""
        return self._over_strongest(HEADLINE)

    @property
    def grouped(self) -> bool:
        """Whether some rows belong together, and are no independent evidence."""
        return int(self.facts.get("groups", 0)) < int(self.facts.get("rows", 0))

    @property
    def word(self) -> str:
        """The word that the verdict begins with: that of the contract where it fell, whatever rose; empty while nothing is compared."""
        fell = self.contract is not None and self.contract.word == "worse"
        return "worse" if fell else self.headline.word if self.headline else ""

    def _over_strongest(self, metric: str) -> Comparison | None:
        *others, last = self.arms
        if last.arm != TUNED or not others:
            return None
        rival = strongest(others, metric).arm
        asked = (metric, rival, last.arm)
        return next((item for item in self.comparisons if (item.metric, item.first, item.second) == asked), None)


def strongest(arms: Sequence[Arm], metric: str) -> Arm:
    """The one of ``arms`` with the most hits on ``metric``, the later one of equals."""
    return max(reversed(arms), key=lambda arm: sum(rate.hits for rate in arm.rates if rate.metric == metric))


Scored = Sequence[dict[str, Score]]


def rates(scored: Scored, groups: Sequence[Hashable] = ()) -> tuple[Rate, ...]:
    """The rates of one arm's scored outputs, each over the outputs that the metric was asked of. Raises ``ValueError`` for none.

    Outputs of one of ``groups`` belong together: an interval is that of as many independent ones as they are worth.
    """
    if not scored:
        raise ValueError("no outputs have no rates")
    found, groups = [], groups or range(len(scored))
    for metric in max(scored, key=len):
        scores = [row[metric] for row in scored if metric in row]
        rows = worth([score.holds for score in scores], [group for row, group in zip(scored, groups, strict=True) if metric in row])
        hits = sum(score.holds for score in scores)
        failures = Counter(score.kind for score in scores if not score.holds)
        values = [score.value for score in scores if score.value is not None]
        mean = sum(values) / len(values) if values else None
        found.append(Rate(metric, hits, len(scores), *wilson(hits, len(scores), rows=rows), dict(failures.most_common()), mean))
    return tuple(found)


@dataclass(frozen=True)
class Measured:
    """An arm with the scores of its answers, row by row; ``margins`` are those of pairs in nats a token, likewise, ``None`` for no pair.

    ``nats`` is the negative log-likelihood of all references together, over their ``tokens`` tokens.
    """

    arm: str
    cached: bool
    seconds: float
    scored: Scored
    margins: Sequence[float | None] = ()
    nats: float = 0.0
    tokens: int = 0

    @property
    def perplexity(self) -> float | None:
        return math.exp(self.nats / self.tokens) if self.tokens else None


def build(facts: dict[str, Any], arms: Sequence[Measured], groups: Sequence[Hashable] = ()) -> Report:
    """A report on ``arms``, the base first, all on the same rows.

    What was tuned comes last, and is also compared with the strongest other arm: it wins only against that.

    ``groups`` says which rows belong together (near-duplicates, one customer): they are no independent evidence. Left out, each is alone.
    """
    groups = groups or range(len(arms[0].scored))
    found = tuple(
        Arm(arm.arm, arm.cached, arm.seconds, rates(arm.scored, groups), _margin(arm, groups), arm.perplexity) for arm in arms
    )
    headline = facts.get("headline", HEADLINE)
    against = [(arms[0], arm) for arm in arms[1:]]
    if len(arms) > 2 and arms[-1].arm == TUNED:
        rivals = {strongest(found[:-1], metric).arm for metric in (headline, HEADLINE)}
        against += [(arm, arms[-1]) for arm in arms[1:-1] if arm.arm in rivals]
    comparisons = correct(
        [
            compare(metric, first.arm, second.arm, *_both(metric, first.scored, second.scored, groups))
            for first, second in against
            for metric in max(second.scored, key=len)
            if metric not in FORMS
        ],
        headline,
    )
    margins = tuple(
        compare_scores("margin", first.arm, second.arm, [pair for pair, _ in kept], [group for _, group in kept], SEED)
        for first, second in against
        if (kept := _both_margins(first, second, groups))
    )
    facts = {**facts, "groups": len(set(groups))}
    report = Report({**facts, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, found, comparisons, "", margins)
    return replace(report, verdict=_verdict(report))


def _both(metric: str, first: Scored, second: Scored, groups: Sequence[Hashable]) -> tuple[list[tuple[bool, bool]], list[Hashable]]:
    """Whether both held, of the rows that the metric was asked of under both, and the groups of those rows."""
    asked = [
        (one[metric].holds, two[metric].holds, group)
        for one, two, group in zip(first, second, groups, strict=True)
        if metric in one and metric in two
    ]
    return [(one, two) for one, two, _ in asked], [group for *_, group in asked]


def _margin(arm: Measured, groups: Sequence[Hashable]) -> Mean | None:
    kept = [(margin, group) for margin, group in zip(arm.margins, groups, strict=False) if margin is not None]
    return bootstrap([margin for margin, _ in kept], [group for _, group in kept], SEED) if kept else None


def _both_margins(first: Measured, second: Measured, groups: Sequence[Hashable]) -> list[tuple[tuple[float, float], Hashable]]:
    return [
        ((one, two), group)
        for one, two, group in zip(first.margins, second.margins, groups, strict=False)
        if one is not None and two is not None
    ]


def _verdict(report: Report) -> str:
    """The headline in words. A preference that was learned at the contract's cost is no gain, whatever it is worth."""
    headline, contract = report.headline, report.contract
    if headline is None or contract is None:
        return f"The base is measured. Train, then evaluate the adapter against it.{_grammar(report)}"
    told = sentence(headline, LABELS[headline.metric], grouped=report.grouped) + _grammar(report)
    if headline is contract:
        return told
    if contract.word == "worse":
        return f"{sentence(contract, LABELS[contract.metric], grouped=report.grouped)} {told}"
    before, after = (f"{count} of {contract.paired.total}" for count in _hits(contract.paired))
    return f"{told} The contract held for {before} answers before and {after} after."


def _grammar(report: Report) -> str:
    """What constrained decoding reaches without any training, where that is all there is to reach."""
    for arm in report.arms:
        for metric, what in ((HEADLINE, "meets the whole contract"), ("schema", "fits the schema")):
            rate = {rate.metric: rate for rate in arm.rates}.get(metric)
            if arm.arm == GRAMMAR and rate and rate.hits == rate.total:
                return f" A grammar alone {what} every time."
    return ""


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
    given = {"margin": None, "perplexity": None, **data}  # a report of an older version has none
    margin = Mean(**given["margin"]) if given["margin"] else None
    return Arm(**{**given, "rates": tuple(Rate(**rate) for rate in given["rates"]), "margin": margin})
