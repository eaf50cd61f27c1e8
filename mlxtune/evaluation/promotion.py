"""Decide whether an adapter may be promoted."""

from __future__ import annotations

from mlxtune.evaluation.report import EvaluationReport


def promotion_caveat(report: EvaluationReport) -> str:
    """Return a short reason not to promote an adapter whose outcome is better, or ``""``."""
    headline, contract, off_task = report.headline, report.contract, report.off_task
    if headline is None or headline.outcome != "better" or report.cut_arm:
        return ""
    if contract is not None and contract.outcome == "worse":
        return "fewer answers meet the whole contract"
    return off_task.drop if off_task and off_task.blocks_promotion else ""


def promotion_refusal(report: EvaluationReport) -> str:
    """Return why the report's adapter may not be promoted, or ``""`` if it may be.

    It must beat the strongest arm that needs no training, not do worse on the contract, and pass the off-task check.
    """
    if report.headline is None or report.outcome != "better":
        return report.verdict
    off_task = report.off_task
    return off_task.summary if off_task and off_task.blocks_promotion else ""
