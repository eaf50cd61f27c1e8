"""Decide whether an adapter may be promoted."""

from __future__ import annotations

from mlxtune.evaluation.arms import is_tuned
from mlxtune.evaluation.off_task.result import DROPPED, HELD, UNKNOWN
from mlxtune.evaluation.report import EvaluationReport


def promotion_caveat(report: EvaluationReport) -> str:
    """Return a short reason not to promote an adapter whose outcome is better, or ``""``."""
    headline, contract, off_task = report.headline, report.contract, report.off_task
    if headline is None or headline.outcome != "better" or report.cut_arm:
        return ""
    if contract is not None and contract.outcome == "worse":
        return "fewer answers meet the whole contract"
    return off_task.caveat if off_task else ""


def off_task_hint(report: EvaluationReport) -> str:
    """Return a remedy if off-task accuracy is the reason not to promote the adapter, or ``""``."""
    word = report.off_task.word if report.off_task and report.outcome == "better" else HELD
    lever = "Mix in replayed answers of the base (data.replay), lower training.learning_rate, or train fewer steps"
    return "" if word == HELD else f"{lever}." if word == DROPPED else f"{lever}; or add --accept-unknown."


def unmeasured_forgetting(report: EvaluationReport) -> str:
    """Return a sentence if the report compares an adapter without off-task prompts, or ``""``."""
    if report.off_task or report.headline is None or not is_tuned(report.headline.second):
        return ""
    return "Whether the adapter forgot other tasks was not measured: it answered no off-task prompts (evaluation.regression)."


def promotion_refusal(report: EvaluationReport, *, accept_unknown: bool = False) -> str:
    """Return why the report's adapter may not be promoted, or ``""`` if it may be.

    It must beat the strongest arm that needs no training, not do worse on the contract, and keep off-task accuracy. With
    ``accept_unknown``, it is enough that no off-task drop was shown.
    """
    if report.headline is None or report.outcome != "better":
        return report.verdict
    off_task = report.off_task
    accepted = (HELD, UNKNOWN) if accept_unknown else (HELD,)
    return off_task.summary if off_task and off_task.word not in accepted else ""
