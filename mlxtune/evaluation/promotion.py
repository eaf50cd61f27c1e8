"""Decide whether an adapter may be promoted."""

from dataclasses import dataclass
from typing import Literal

from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.statistics.intervals import LEVEL


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


def is_forgetting_unmeasured(report: EvaluationReport) -> bool:
    """Return whether the report compares an adapter without off-task prompts."""
    return report.off_task is None and report.headline is not None


def promotion_refusal(
    report: EvaluationReport, *, accept_unknown: bool = False
) -> Literal["", "not_better", "looks_spent", "off_task_dropped", "off_task_unknown"]:
    """Return why the report's adapter may not be promoted, or ``""`` if it may be.

    It must beat the strongest arm that needs no training, not do worse on the contract, and keep off-task accuracy. With
    ``accept_unknown``, it is enough that no off-task drop was shown. ``looks_spent`` means that the level is used up: the gain would have
    been significant at the first look at these rows.
    """
    if report.outcome != "better":
        gain = report.headline if report.outcome == "cannot_tell" and not report.verdict.cut and not report.seeds else None
        p = (gain.p if gain.adjusted is None else gain.adjusted) if gain and gain.change > 0 else 1.0
        return "looks_spent" if report.facts["level"] <= p < LEVEL else "not_better"
    outcome = report.off_task.outcome if report.off_task else "held"
    if outcome == "dropped":
        return "off_task_dropped"
    return "off_task_unknown" if outcome == "cannot_tell" and not accept_unknown else ""
