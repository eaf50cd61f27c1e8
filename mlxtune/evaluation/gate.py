"""May an adapter be promoted? What CI asks, and whoever hands it on."""

from __future__ import annotations

from mlxtune.evaluation import regression
from mlxtune.evaluation.report import Report


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
