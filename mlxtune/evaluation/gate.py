"""May an adapter be promoted? What CI asks, and whoever hands it on."""

from __future__ import annotations

from mlxtune.evaluation import regression
from mlxtune.evaluation.report import Report


def reservation(report: Report) -> str:
    """What stands against promoting an adapter that is better, in a few words; empty where nothing does, and where it is not better."""
    headline, contract, off_task = report.headline, report.contract, regression.of(report.facts)
    if headline is None or headline.word != "better":
        return ""
    if contract is not None and contract.word == "worse":
        return "the whole contract is kept less often"
    return off_task.brief if off_task and off_task.blocks else ""


def refusal(report: Report) -> str:
    """Why the adapter of ``report`` may not be promoted, in words; empty when it may.

    It may when it is better than the strongest arm without training, whatever else the verdict is about does not cost it the contract,
    and off-task prompts show that general behaviour held.
    """
    headline, contract = report.headline, report.contract
    if headline is None or headline.word != "better" or (contract is not None and contract.word == "worse"):
        return report.verdict
    off_task = regression.of(report.facts)
    return off_task.sentence if off_task and off_task.blocks else ""
