"""An evaluation's report: rates with intervals for each arm, paired comparisons, and the verdict."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.evaluation.answer_statistics import MAX_CUT, AnswerStatistics
from mlxtune.evaluation.arms import GRAMMAR, TUNED, is_tuned
from mlxtune.evaluation.evidence import FILES, hashes
from mlxtune.evaluation.json_fields import from_json, to_json
from mlxtune.evaluation.off_task.result import OffTaskResult, from_record
from mlxtune.evaluation.scorers import CONTRACT, Score
from mlxtune.evaluation.scorers.preference import PREFERENCE
from mlxtune.evaluation.scorers.registry import FORMS, metric_label
from mlxtune.evaluation.seed_report import SeedReport, SeedScores, build_seed_report, load_seed_report
from mlxtune.evaluation.statistics.bootstrap import BootstrapMean, bootstrap
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import PairedCounts, wilson
from mlxtune.evaluation.verdict import (
    Comparison,
    ScoreComparison,
    apply_holm,
    compare,
    compare_scores,
    outcomes_with_passes,
    signed_points,
    verdict_sentence,
)

FILE = "report.json"
PAGES = ("report.md", "report.html")
VERSION = 1  # format version of report.json
WORDING = 10  # version of the verdict, adjusted p-values, and reasons in outputs.jsonl; verify compares these only if it matches
SEED = 7  # bootstrap seed, fixed so that reports are reproducible


class Decoding(TypedDict):
    kind: str
    max_tokens: int


class EndpointFacts(TypedDict):
    """The model behind an arm, and the dollars spent on its answers, at most."""

    url: str
    model: str
    spent: float


class ReportFacts(TypedDict, total=False):
    """The facts about an evaluation, as stored in ``report.json`` (:data:`VERSION`); ``report.schema.json`` describes each key."""

    name: str
    base: str
    base_fingerprint: str
    run: str
    adapter: str
    adapter_step: int
    rows: int
    row_ids: list[str]
    groups: int
    source: str
    schema: str
    contract: str
    asks: list[str]
    template: str
    decoding: Decoding
    endpoints: dict[str, EndpointFacts]
    longest_reference: int
    room: int
    thinking: str
    thinking_tokens: int
    date: str
    compute: str
    wording: int
    untouched: str
    moved: str
    headline: str
    looks: int
    ledger: str
    renderer: str  # a hash of the code that wrote the pages
    off_task: dict[str, Any]
    regression: dict[str, Any]  # the off-task result in older reports
    made: str


@dataclass(frozen=True)
class Rate:
    """How many outputs pass a metric, with the 95% Wilson interval and the failures by class.

    ``mean`` is the mean of partial scores, for metrics that have them.
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
class ArmResult:
    """An arm's rates, whether its answers came from the cache, and how long they took in seconds.

    ``margin`` is the mean log-likelihood advantage of chosen over rejected answers, in nats per token, for preference pairs.
    ``perplexity`` is computed on the reference answers, if possible. ``thought_tokens`` is the number of tokens of reasoning before
    all answers, ``None`` if there was none. ``answers`` is missing in older reports.
    """

    name: str = field(metadata={"key": "arm"})
    cached: bool
    seconds: float
    rates: tuple[Rate, ...]
    margin: BootstrapMean | None = None
    perplexity: float | None = None
    thought_tokens: int | None = field(default=None, metadata={"optional": True})
    answers: AnswerStatistics | None = field(default=None, metadata={"optional": True})

    def rate(self, metric: str) -> Rate:
        """Return the rate of ``metric``. Raises ``KeyError``."""
        return {rate.metric: rate for rate in self.rates}[metric]


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation's results.

    The verdict is about the whole contract, for preference training about the preferred answers and, without a contract, about
    agreement with the reference answers.
    """

    facts: ReportFacts
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    verdict: str
    margins: tuple[ScoreComparison, ...] = ()
    seeds: SeedReport | None = field(default=None, metadata={"optional": True})

    @property
    def headline_metric(self) -> str:
        """The metric that the verdict is about."""
        return self.facts.get("headline", CONTRACT)

    @property
    def answer_metric(self) -> str:
        """The metric that sums up the answers: the contract or, without one, the headline metric."""
        return CONTRACT if any(rate.metric == CONTRACT for rate in self.arms[0].rates) else self.headline_metric

    @property
    def headline(self) -> Comparison | None:
        """The comparison of the strongest tuned arm with the strongest other arm, behind the verdict; ``None`` without a tuned arm."""
        return self._with_strongest(self.headline_metric)

    @property
    def contract(self) -> Comparison | None:
        """The same comparison on the whole contract; ``None`` also without a contract."""
        return self._with_strongest(CONTRACT)

    @property
    def subject(self) -> ArmResult:
        """The arm that the report is about: the strongest tuned arm (of equal ones, the first), or the last arm if none is tuned."""
        tuned = [arm for arm in self.arms if is_tuned(arm.name)]
        return strongest_arm(tuned[::-1], self.headline_metric) if tuned else self.arms[-1]

    @property
    def off_task(self) -> OffTaskResult | None:
        """The off-task result, or ``None`` if there were no off-task prompts."""
        record = self.facts.get("off_task") or self.facts.get("regression")
        return from_record(record) if record else None

    @property
    def grouped(self) -> bool:
        """Whether some rows belong to the same group, and so are not independent."""
        return self.facts.get("groups", 0) < self.facts.get("rows", 0)

    @property
    def outcome(self) -> str:
        """The verdict's outcome: ``worse`` if the contract got worse, else the headline's; empty if nothing was compared.

        It is ``cannot tell`` if the token limit may have decided it.
        """
        if self.cut_arm:
            return "cannot tell"
        contract_is_worse = self.contract is not None and self.contract.outcome == "worse"
        return "worse" if contract_is_worse else self.headline.outcome if self.headline else ""

    @cached_property
    def cut_arm(self) -> ArmResult | None:
        """An arm that did not win and whose answers were cut off so often that the token limit may have decided the outcome, if
        there is one. The limit is not decisive if the rows are independent and the outcome is the same with all of these answers
        counted as passes.
        """
        item = self._with_strongest(self.answer_metric)
        if item is None or (self.headline_metric != item.metric and item.outcome != "worse") or item.metric == PREFERENCE:
            return None
        sides = {"better": (item.first,), "worse": (item.second,)}.get(item.outcome, (item.first, item.second))
        for arm in self.arms:
            if arm.name in sides and arm.answers and arm.answers.undecided > MAX_CUT * item.paired.total:
                outcomes = outcomes_with_passes(self.comparisons, item, arm.name, arm.answers.undecided, self.family)
                if self.grouped or outcomes != {item.outcome}:
                    return arm
        return None

    def family(self, item: Comparison) -> str:
        """Return which comparisons share Holm's correction with ``item``.

        The verdict is about the strongest tuned arm, so every tuned arm's comparison with the same rival is in its family. The
        headline metric's other comparisons form the second family, those of the other metrics the third.
        """
        if item.metric != self.headline_metric:
            return "other metrics"
        decides = self.headline is not None and item.first == self.headline.first and is_tuned(item.second)
        return "verdict" if decides else "other arms"

    def comparison(self, metric: str, first: str, second: str) -> Comparison | None:
        """Return the comparison of two arms on ``metric``, if there is one."""
        key = (metric, first, second)
        return next((item for item in self.comparisons if (item.metric, item.first, item.second) == key), None)

    def _with_strongest(self, metric: str) -> Comparison | None:
        others = [arm for arm in self.arms if not is_tuned(arm.name)]
        if not others or not is_tuned(self.subject.name):
            return None
        return self.comparison(metric, strongest_arm(others, metric).name, self.subject.name)


def strongest_arm(arms: Sequence[ArmResult], metric: str) -> ArmResult:
    """Return the arm with the most hits on ``metric``; ties go to the later one."""
    return max(reversed(arms), key=lambda arm: sum(rate.hits for rate in arm.rates if rate.metric == metric))


ScoredRows = Sequence[dict[str, Score]]


def metric_rates(scored: ScoredRows, groups: Sequence[Hashable] = ()) -> tuple[Rate, ...]:
    """Return the rate of each metric over the outputs that it applies to. Raises ``ValueError`` if there are no outputs.

    ``groups`` says which outputs belong together; intervals use the effective number of independent outputs.
    """
    if not scored:
        raise ValueError("no outputs to rate")
    rates, groups = [], groups or range(len(scored))
    for metric in max(scored, key=len):
        scores = [row[metric] for row in scored if metric in row]
        own_groups = [group for row, group in zip(scored, groups, strict=True) if metric in row]
        size = effective_n([score.passed for score in scores], own_groups)
        hits = sum(score.passed for score in scores)
        failures = Counter(score.kind for score in scores if not score.passed)
        values = [score.value for score in scores if score.value is not None]
        mean = sum(values) / len(values) if values else None
        interval = wilson(hits, len(scores), effective_n=size)
        rates.append(Rate(metric, hits, len(scores), *interval, dict(failures.most_common()), mean))
    return tuple(rates)


@dataclass(frozen=True)
class ArmScores:
    """An arm with the scores of its answers, row by row.

    ``margins`` holds each preference pair's margin in nats per token, and ``None`` for other rows. ``nats`` is the total negative
    log-likelihood of all references, which have ``tokens`` tokens in total. ``thought_tokens`` counts the reasoning before the answers.
    """

    name: str
    cached: bool
    seconds: float
    scored: ScoredRows
    margins: Sequence[float | None] = ()
    nats: float = 0.0
    tokens: int = 0
    thought_tokens: int = 0
    answers: AnswerStatistics | None = None

    @property
    def perplexity(self) -> float | None:
        return math.exp(self.nats / self.tokens) if self.tokens else None


def build(
    facts: ReportFacts, arms: Sequence[ArmScores], groups: Sequence[Hashable] = (), seeds: Sequence[SeedScores] = ()
) -> EvaluationReport:
    """Build the report of ``arms``, which answered the same rows. The base comes first, the tuned arms last. Each tuned arm is
    compared with the base and with the strongest other arm, which the strongest tuned arm must beat. ``groups`` says which rows
    belong together (near-duplicates, or rows of one customer); by default, all rows are independent. ``seeds`` are the recipe's
    adapters, of which the tuned arms have the recommended one.
    """
    groups = groups or range(len(arms[0].scored))
    results = tuple(
        ArmResult(
            arm.name,
            arm.cached,
            arm.seconds,
            metric_rates(arm.scored, groups),
            _margin(arm, groups),
            arm.perplexity,
            arm.thought_tokens or None,
            arm.answers,
        )
        for arm in arms
    )
    headline = facts.get("headline", CONTRACT)
    pairs = [(arms[0], arm) for arm in arms[1:]]
    tuned, others = [arm for arm in arms if is_tuned(arm.name)], [result for result in results if not is_tuned(result.name)]
    if tuned and len(others) > 1:
        rivals = {strongest_arm(others, metric).name for metric in (headline, CONTRACT)} - {arms[0].name}
        pairs += [(rival, arm) for arm in tuned for rival in arms if rival.name in rivals]
    comparisons = tuple(
        compare(metric, first.name, second.name, *both_passed(metric, first.scored, second.scored, groups))
        for first, second in pairs
        for metric in max(second.scored, key=len)
        if metric not in FORMS
    )
    margins = tuple(
        compare_scores("margin", first.name, second.name, [pair for pair, _ in both], [group for _, group in both], SEED)
        for first, second in pairs
        if (both := _both_margins(first, second, groups))
    )
    complete: ReportFacts = {**facts, "groups": len(set(groups)), "made": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    report = EvaluationReport(complete, results, comparisons, "", margins, _seed_report(headline, results, arms, groups, seeds))
    report = replace(report, comparisons=apply_holm(comparisons, report.family))
    return replace(report, verdict=_verdict(report))


def _seed_report(
    metric: str, results: Sequence[ArmResult], arms: Sequence[ArmScores], groups: Sequence[Hashable], seeds: Sequence[SeedScores]
) -> SeedReport | None:
    if not seeds:
        return None
    rival = strongest_arm([result for result in results if not is_tuned(result.name)], metric).name
    return build_seed_report(seeds, metric, groups, rival, next(arm.scored for arm in arms if arm.name == rival))


def both_passed(
    metric: str, first: ScoredRows, second: ScoredRows, groups: Sequence[Hashable]
) -> tuple[list[tuple[bool, bool]], list[Hashable]]:
    """Return whether each arm passed, for the rows to which ``metric`` applies in both arms, and the groups of those rows."""
    rows = [
        (one[metric].passed, two[metric].passed, group)
        for one, two, group in zip(first, second, groups, strict=True)
        if metric in one and metric in two
    ]
    return [(one, two) for one, two, _ in rows], [group for *_, group in rows]


def _margin(arm: ArmScores, groups: Sequence[Hashable]) -> BootstrapMean | None:
    rows = [(margin, group) for margin, group in zip(arm.margins, groups, strict=False) if margin is not None]
    return bootstrap([margin for margin, _ in rows], [group for _, group in rows], SEED) if rows else None


def _both_margins(first: ArmScores, second: ArmScores, groups: Sequence[Hashable]) -> list[tuple[tuple[float, float], Hashable]]:
    return [
        ((one, two), group)
        for one, two, group in zip(first.margins, second.margins, groups, strict=False)
        if one is not None and two is not None
    ]


def _verdict(report: EvaluationReport) -> str:
    """Return the verdict as a sentence. Increase :data:`WORDING` after changing the wording."""
    text, arm = _measured(report), report.cut_arm
    return f"{_limit_decides(report, arm)} {text.removeprefix('Cannot tell. ')}" if arm else text


def _measured(report: EvaluationReport) -> str:
    """Return the verdict at this token limit, with what else got worse. A gain in preferences at the contract's expense counts as worse."""
    headline, contract = report.headline, report.contract
    if headline is None:
        if len(report.arms) == 1:
            return f"The base has been evaluated. Now train, then compare the adapter with it.{_grammar(report)}{_cut_baseline(report)}"
        rates = ", ".join(f"{arm.name} {100 * arm.rate(report.headline_metric).share:.1f}%" for arm in report.arms)
        measured = f"Without training, {metric_label(report.headline_metric)}: {rates}."
        return f"{measured} Now train, then compare the adapter with the best of them.{_grammar(report)}{_cut_baseline(report)}"
    arm = "" if report.subject.name == TUNED else report.subject.name
    text = verdict_sentence(headline, metric_label(headline.metric), grouped=report.grouped, arm=arm)
    text += _also_worse(report, headline) + _grammar(report)
    if contract is None or headline is contract:
        return text
    if contract.outcome == "worse":
        return f"{verdict_sentence(contract, metric_label(contract.metric), grouped=report.grouped, arm=arm)} {text}"
    paired = contract.paired
    before, after = (f"{count} of {paired.total}" for count in (paired.first, paired.second))
    return f"{text} The contract held for {before} answers before and {after} after."


def _limit_decides(report: EvaluationReport, arm: ArmResult) -> str:
    """Return the sentences that precede a verdict that may be due only to the token limit."""
    return f"Cannot tell. The token limit may decide: {_cut_answers(report, arm)}. Raise {_limits(arm)} and evaluate again. At this limit:"


def _cut_baseline(report: EvaluationReport) -> str:
    """Return a sentence if the token limit may decide a later comparison with one of the arms, none of which is tuned, else ``""``."""
    for arm in report.arms:
        if report.answer_metric != PREFERENCE and arm.answers and arm.answers.undecided > MAX_CUT * report.facts["rows"]:
            return f" First, though, raise {_limits(arm)} and evaluate again: {_cut_answers(report, arm)}."
    return ""


def _cut_answers(report: EvaluationReport, arm: ArmResult) -> str:
    facts, cut = report.facts, arm.answers.undecided if arm.answers else 0
    limit = f"{facts['decoding']['max_tokens']:,} tokens" if "decoding" in facts else "the token limit"
    return f"{cut} of {facts['rows']} answers of {arm.name} were cut off at {limit} and might still have passed"


def _limits(arm: ArmResult) -> str:
    return "evaluation.max_tokens or evaluation.thinking_tokens" if arm.thought_tokens else "evaluation.max_tokens"


def _also_worse(report: EvaluationReport, headline: Comparison) -> str:
    """Return a sentence with the other metrics that got worse if neither the headline nor the contract did, or ``""``."""
    if any(item and item.outcome == "worse" for item in (headline, report.contract)):
        return ""
    arms = (headline.first, headline.second)
    changes = [
        f"{metric_label(item.metric)} ({signed_points(item.change)} points)"
        for item in report.comparisons
        if (item.first, item.second) == arms and item.outcome == "worse" and item.metric != headline.metric
    ]
    return f" Worse, though: {', '.join(changes)}." if changes else ""


def _grammar(report: EvaluationReport) -> str:
    """Return a sentence if a grammar alone, without training, meets a requirement on every row, else ``""``."""
    for arm in report.arms:
        for metric, claim in ((CONTRACT, "meets the whole contract"), ("schema", "fits the schema")):
            rate = {rate.metric: rate for rate in arm.rates}.get(metric)
            if arm.name == GRAMMAR and rate and rate.hits == rate.total:
                return f" A grammar alone {claim} every time."
    return ""


def save(report: EvaluationReport, folder: Path) -> None:
    """Write ``report.json``, as described in ``report.schema.json``, with the hashes of the files it can be verified against."""
    write_json(folder / FILE, {"v": VERSION, **to_json(report), "files": hashes(folder, (*FILES, *PAGES))})


def load(folder: Path) -> EvaluationReport:
    """Load the report in ``folder``. Raises ``InputError`` if it is missing or malformed."""
    data = read_json(folder / FILE)
    try:
        comparisons = tuple(from_json(Comparison, item, paired=PairedCounts(**item["paired"])) for item in data["comparisons"])
        margins = tuple(from_json(ScoreComparison, item) for item in data.get("margins", []))
        seeds = load_seed_report(data["seeds"]) if "seeds" in data else None
        return EvaluationReport(data["facts"], tuple(map(_arm, data["arms"])), comparisons, data["verdict"], margins, seeds)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / FILE} is not a report that this version can read: {error}.") from error


def _arm(record: dict[str, Any]) -> ArmResult:
    margin = BootstrapMean(**record["margin"]) if record.get("margin") else None  # older reports have none
    answers = AnswerStatistics(**record["answers"]) if record.get("answers") else None
    return from_json(ArmResult, record, rates=tuple(Rate(**rate) for rate in record["rates"]), margin=margin, answers=answers)
