"""Calibrate a judge against the user's blind votes on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlxtune.evaluation.blind.votes import ArmChoice
from mlxtune.evaluation.statistics.agreement import ConfusionCounts, Estimate, corrected_rate, kappa

MODERATE = 0.4  # κ at which agreement counts as moderate (Landis and Koch 1977)


@dataclass(frozen=True)
class JudgeCalibration:
    """The agreement on the rows that both judged, their κ, and the raw and corrected share of rows where the second arm wins."""

    rows: int
    agreed: int
    kappa: Estimate | None
    raw: float
    corrected: Estimate | None


def calibrate(judge: Mapping[str, ArmChoice], reader: Mapping[str, ArmChoice]) -> JudgeCalibration | None:
    """Compare the judge's preferences with the reader's row by row; ``None`` if they have no rows in common.

    The corrected share treats the reader as the truth and the judge as an imperfect test (Rogan and Gladen 1978): it estimates what
    the reader would have said about all rows that the judge read. A tie is not a preference for the second arm.
    """
    shared = [(judge[id], reader[id]) for id in judge if id in reader]
    if not shared:
        return None
    positives = [choice for choice, truth in shared if truth == "second"]
    negatives = [choice for choice, truth in shared if truth != "second"]
    known = ConfusionCounts(
        positives.count("second"), len(positives), sum(choice != "second" for choice in negatives), len(negatives)
    )
    hits = sum(choice == "second" for choice in judge.values())
    agreed = sum(choice == truth for choice, truth in shared)
    return JudgeCalibration(len(shared), agreed, kappa(shared), hits / len(judge), corrected_rate(hits, len(judge), known))


def calibration_sentence(result: JudgeCalibration) -> str:
    """Describe the agreement in a sentence."""
    if result.kappa is None or result.kappa.value < MODERATE:
        return (
            f"The judge agrees with you on {result.agreed} of {result.rows} rows, little better than chance: trust your own votes."
        )
    return f"The judge agrees with you on {result.agreed} of {result.rows} rows, κ {result.kappa.value:.2f}."
