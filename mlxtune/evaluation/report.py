"""An evaluation's report: rates with intervals for each arm, paired comparisons, the verdict, and whether it promotes the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, require_version, write_json
from mlxtune.core.json_fields import from_json, optional, to_json
from mlxtune.evaluation.answers import Answer, AnswerStatistics
from mlxtune.evaluation.arms import ENDPOINT, has_grammar, is_free, is_tuned
from mlxtune.evaluation.evidence import FILES, hashes
from mlxtune.evaluation.holdout.ledger import HoldoutHistory
from mlxtune.evaluation.off_task.prompts import OffTaskResult
from mlxtune.evaluation.scorers import CONTRACT, PREFERENCE
from mlxtune.evaluation.seed_report import SeedReport
from mlxtune.evaluation.statistics.clusters import ClusterMean
from mlxtune.evaluation.statistics.intervals import LEVEL
from mlxtune.evaluation.verdict import Comparison, ScoreComparison, Verdict

FILE = "report.json"
PAGES = ("report.md", "report.html")
MIN_GROUPS = 20  # effective groups, below which intervals for dependent rows may be too narrow
VERSION = 5  # of the format of report.json and of the files that it lists

LeftOut = Literal["no_answers", "pairs", "no_llguidance", "few_rows", "no_room"]
"""Why a default arm was not evaluated: no training row has an answer, likelihoods of pairs are compared, llguidance is not installed,
or there are too few training rows or too little room in the context for the examples of its prompts."""


class Decoding(TypedDict):
    kind: str
    max_tokens: int
    grammar_tokens: NotRequired[int]  # the limit under a grammar, if it is higher


def decoding(max_tokens: int, grammar_tokens: int | None) -> Decoding:
    """Return how answers are decoded, given their limits."""
    facts: Decoding = {"kind": "greedy", "max_tokens": max_tokens}
    return {**facts, "grammar_tokens": grammar_tokens} if grammar_tokens and grammar_tokens > max_tokens else facts


def token_limit(facts: ReportFacts, arm: str) -> int:
    """Return the limit of an answer of ``arm`` in tokens, or 0 if it is unknown."""
    known = facts.get("decoding") or Decoding(kind="", max_tokens=0)
    return known.get("grammar_tokens", known["max_tokens"]) if has_grammar(arm) else known["max_tokens"]


def continued_arms(facts: ReportFacts, answers: Mapping[str, Sequence[Answer]]) -> dict[str, int]:
    """Return each arm whose answers were continued beyond its limit, with the tokens of the longest one."""
    own = {arm: max(one.answer_tokens for one in answers[arm]) for arm in answers if not arm.startswith(ENDPOINT)}
    return {arm: longest for arm, longest in own.items() if longest > token_limit(facts, arm)}


class EndpointFacts(TypedDict):
    """The model behind an arm, and the dollars spent on its answers, at most."""

    url: str
    model: str
    spent: float


class OptimizerFacts(TypedDict, total=False):
    """What the optimization of a prompt took: answers, proposals of ``model`` (the base or an endpoint), generated tokens, and dollars.

    ``start`` and ``score`` are the first and the best of the ``prompts`` by their mean score on the validation rows.
    """

    model: str
    calls: int
    reflections: int
    tokens: int
    seconds: float
    spent: float
    prompts: int
    start: float
    score: float


class StrongestFacts(TypedDict):
    """The untrained arm that passes most of the validation ``rows``, and the passes of each candidate."""

    arm: str
    hits: dict[str, int]
    rows: int


class ReportFacts(TypedDict, total=False):
    """The facts about an evaluation, as stored in ``report.json``; ``report.schema.json`` describes each key."""

    name: str
    base: str
    base_fingerprint: str
    run: str
    adapter: str
    adapter_step: int
    least_updates: int
    rows: int
    row_ids: list[str]
    groups: int
    effective_groups: float
    source: str
    schema: str
    contract: str
    required: list[str]
    template: str
    decoding: Decoding
    continued: dict[str, int]
    endpoints: dict[str, EndpointFacts]
    optimizer: OptimizerFacts
    costs: dict[str, dict[str, float]]
    free_arms: dict[str, str]
    strongest: StrongestFacts
    left_out: dict[str, LeftOut]
    longest_reference: int
    room: int
    thinking: str
    thinking_tokens: int
    date: str
    compute: str
    contamination: dict[str, Any]  # Contamination
    changed_terms: dict[str, Any]  # ChangedTerms
    headline: str
    last_look: bool
    level: float
    holdout: dict[str, Any]  # HoldoutHistory
    off_task: dict[str, Any]  # OffTaskResult
    made: str


@dataclass(frozen=True)
class Rate:
    """How many outputs pass a metric, with the 95% Wilson interval."""

    metric: str
    hits: int
    total: int
    low: float
    high: float
    failures: dict[str, int] = field(default_factory=dict)  # by class
    mean: float | None = None  # of partial scores, for metrics that have them

    @property
    def share(self) -> float:
        return self.hits / self.total


@dataclass(frozen=True)
class ArmResult:
    """An arm's rates, whether its answers came from the cache, and how long they took in seconds."""

    name: str = field(metadata={"key": "arm"})
    cached: bool
    seconds: float
    rates: tuple[Rate, ...]
    answers: AnswerStatistics
    margin: ClusterMean | None = None  # the mean log-likelihood advantage of chosen over rejected answers, in nats per token
    perplexity: float | None = None  # of the reference answers
    thought_tokens: int | None = optional(None)  # of all answers
    prompt_tokens: int | None = optional(None)  # of all prompts

    def rate(self, metric: str) -> Rate:
        """Return the rate of ``metric``. Raises ``KeyError``."""
        return {rate.metric: rate for rate in self.rates}[metric]


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation's results.

    The verdict is about the answers that equal their references, without such a comparison about the whole contract, and for
    preference training about the preferred answers.
    """

    facts: ReportFacts
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
    margins: tuple[ScoreComparison, ...] = ()
    seeds: SeedReport | None = optional(None)

    @property
    def headline_metric(self) -> str:
        """The metric that the verdict is about."""
        return self.facts.get("headline", CONTRACT)

    @property
    def answer_metric(self) -> str:
        """The metric that sums up the answers: the headline metric, or the contract if that is about pairs."""
        has_contract = any(rate.metric == CONTRACT for rate in self.arms[0].rates)
        return CONTRACT if has_contract and self.headline_metric == PREFERENCE else self.headline_metric

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
        """The arm that the report is about: the strongest tuned arm (of equal ones, the first) or, without one, the last that is not free."""
        tuned = [arm for arm in self.arms if is_tuned(arm.name)]
        return (
            strongest_arm(tuned[::-1], self.headline_metric) if tuned else [arm for arm in self.arms if not is_free(arm.name)][-1]
        )

    @property
    def rival(self) -> ArmResult:
        """The arm that the subject is compared with or, without one, the base."""
        headline = self.headline
        return next(arm for arm in self.arms if headline is None or arm.name == headline.first)

    @property
    def off_task(self) -> OffTaskResult | None:
        """The off-task result, or ``None`` if there were no off-task prompts."""
        return from_json(OffTaskResult, self.facts["off_task"]) if "off_task" in self.facts else None

    @property
    def holdout(self) -> HoldoutHistory | None:
        """The earlier use of the held-out rows."""
        return from_json(HoldoutHistory, self.facts["holdout"]) if "holdout" in self.facts else None

    @property
    def grouped(self) -> bool:
        """Whether some rows belong to the same group, and so are not independent."""
        return self.facts.get("groups", 0) < self.facts.get("rows", 0)

    @property
    def has_few_groups(self) -> bool:
        """Whether rows are dependent and there are so few groups that intervals may be too narrow."""
        return self.grouped and self.facts.get("effective_groups", MIN_GROUPS) < MIN_GROUPS

    @property
    def outcome(self) -> str:
        """The verdict's outcome; empty if nothing was compared."""
        return self.verdict.outcome

    def comparison(self, metric: str, first: str, second: str) -> Comparison | None:
        """Return the comparison of two arms on ``metric``, if there is one."""
        key = (metric, first, second)
        return next((item for item in self.comparisons if item.names == key), None)

    def _with_strongest(self, metric: str) -> Comparison | None:
        others = [arm for arm in self.arms if not is_tuned(arm.name)]
        if not others or not is_tuned(self.subject.name):
            return None
        return self.comparison(metric, strongest_arm(others, metric).name, self.subject.name)


def strongest_arm(arms: Sequence[ArmResult], metric: str) -> ArmResult:
    """Return the arm with the most hits on ``metric``; ties go to the later one that is not free."""
    return max(
        reversed(arms), key=lambda arm: (sum(rate.hits for rate in arm.rates if rate.metric == metric), not is_free(arm.name))
    )


def save(report: EvaluationReport, folder: Path) -> None:
    """Write ``report.json``, as described in ``report.schema.json``, with the hashes of the files it can be verified against."""
    write_json(folder / FILE, {"v": VERSION, **to_json(report), "files": hashes(folder, (*FILES, *PAGES))})


def load(folder: Path) -> EvaluationReport:
    """Load the report in ``folder``. Raises ``InputError`` if it is missing, malformed, or of another version."""
    data = read_json(folder / FILE)
    try:
        require_version(data["v"], VERSION, folder / FILE)
        if not isinstance(data["facts"]["row_ids"], list):
            raise TypeError("row_ids is not a list")
        return from_json(
            EvaluationReport, {key: value for key, value in data.items() if key not in ("v", "files")}, facts=data["facts"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / FILE} is not a report: {error}.", hint="Evaluate again: mlxtune eval") from error


@dataclass(frozen=True)
class Caveat:
    """Why an adapter whose outcome is better should still not be promoted."""

    reason: Literal["contract_worse", "off_task_dropped", "off_task_unknown"]
    before: float = 0.0  # the share of off-task prompts that the base answers correctly
    after: float = 0.0  # the same of the adapter
    margin: float = 0.0  # the drop that must be ruled out


def promotion_caveat(report: EvaluationReport) -> Caveat | None:
    """Return why an adapter whose outcome is better should not be promoted, or ``None``."""
    headline, contract, off_task = report.headline, report.contract, report.off_task
    if headline is None or headline.outcome != "better" or report.verdict.cut:
        return None
    if contract is not None and contract.outcome == "worse":
        return Caveat("contract_worse")
    if off_task is None or off_task.outcome == "held":
        return None
    paired, reason = off_task.overall.paired, "off_task_dropped" if off_task.outcome == "dropped" else "off_task_unknown"
    before, after = (count / paired.total if paired.total else 0.0 for count in (paired.first, paired.second))
    return Caveat(reason, before, after, off_task.margin)  # type: ignore[arg-type]


def promotion_refusal(
    report: EvaluationReport, *, accept_unknown: bool = False
) -> Literal["", "not_better", "looks_spent", "off_task_dropped", "off_task_unknown"]:
    """Return why the report's adapter may not be promoted, or ``""`` if it may be.

    It must beat the strongest arm that needs no training, not do worse on the contract, and keep off-task accuracy. With
    ``accept_unknown``, it is enough that no off-task drop was shown. ``looks_spent`` means that the level is used up: the gain would have
    been significant at the first look at these rows.
    """
    if report.outcome != "better":
        gain = report.headline if report.outcome == "cannot_tell" and not report.verdict.cut else None
        p = (gain.p if gain.adjusted is None else gain.adjusted) if gain and gain.change > 0 else 1.0
        is_spent = gain is not None and report.seeds.looks_spent if report.seeds else report.facts["level"] <= p < LEVEL
        return "looks_spent" if is_spent else "not_better"
    outcome = report.off_task.outcome if report.off_task else "held"
    if outcome == "dropped":
        return "off_task_dropped"
    return "off_task_unknown" if outcome == "cannot_tell" and not accept_unknown else ""
