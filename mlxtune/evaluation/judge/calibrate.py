"""How far a judge can be believed: against the votes that the user gave blind on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlxtune.evaluation.agreement import Calibration, Estimate, corrected, kappa
from mlxtune.evaluation.ballot import Choice

ENOUGH = 0.4  # κ below which a judge's word says little (moderate agreement begins there: Landis and Koch 1977)


@dataclass(frozen=True)
class Calibrated:
    """``agreed`` of ``rows`` that both judged, their κ, and the share of rows on which the second arm is truly preferred."""

    rows: int
    agreed: int
    kappa: Estimate | None
    raw: float
    corrected: Estimate | None


def calibrate(judge: Mapping[str, Choice], reader: Mapping[str, Choice]) -> Calibrated | None:
    """The judge's preferences, by row, against the reader's; ``None`` when they share no row.

    The corrected share takes the reader for the truth and the judge for a test with errors (Rogan and Gladen 1978): what the
    reader would have said of all rows that the judge saw. A tie is no preference for the second arm.
    """
    shared = [(judge[id], reader[id]) for id in judge if id in reader]
    if not shared:
        return None
    positive = [said for said, truth in shared if truth == "second"]
    negative = [said for said, truth in shared if truth != "second"]
    known = Calibration(positive.count("second"), len(positive), sum(said != "second" for said in negative), len(negative))
    hits = sum(said == "second" for said in judge.values())
    agreed = sum(said == truth for said, truth in shared)
    return Calibrated(len(shared), agreed, kappa(shared), hits / len(judge), corrected(hits, len(judge), known))


def sentence(found: Calibrated) -> str:
    """What that means, in words."""
    if found.kappa is None or found.kappa.value < ENOUGH:
        return (
            f"The judge agrees with you on {found.agreed} of {found.rows} rows, little better than chance: believe your own votes."
        )
    return f"The judge agrees with you on {found.agreed} of {found.rows} rows, κ {found.kappa.value:.2f}."
