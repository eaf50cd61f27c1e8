"""The newest report of an evaluation, as far as the rooms show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line

SIGNS = {"better": ("✓", "$success"), "worse": ("✗", "$error"), "cannot tell": ("·", "$warning")}
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError)  # what a file that is JSON but no report leads to


@dataclass(frozen=True)
class Metric:
    """What share of the held-out rows met it, from 0 to 1, for the base and the last arm."""

    name: str
    base: float
    tuned: float


@dataclass(frozen=True)
class Verdict:
    """Better, worse or cannot tell, and what it rests on. ``word`` is empty while only the base has been measured.

    ``reservation`` says why what is better is not to be promoted all the same; mostly it is empty.
    """

    word: str
    sentence: str
    run: str
    name: str
    rows: int
    baseline: str
    metrics: tuple[Metric, ...]
    reservation: str = ""

    @property
    def mark(self) -> str:
        return sign(self.word, self.reservation)[0] if self.word else "◐"

    @property
    def token(self) -> str:
        return sign(self.word, self.reservation)[1] if self.word else "$primary"


def sign(word: str, reservation: str = "") -> tuple[str, str]:
    """The mark of a verdict and its token; one that is better and not to be promoted is a warning."""
    return ("!", "$warning") if reservation else SIGNS.get(word, ("○", "$muted"))


def read_verdict(path: Path) -> Verdict | None:
    """What the report at ``path`` says, or ``None`` if it is none that this version can read."""
    # Here, because the report's scorers bring a schema validator that the first screen should not wait for.
    from mlxtune.evaluation.contract import FORMS, LABELS
    from mlxtune.evaluation.gate import reservation
    from mlxtune.evaluation.report import load

    try:
        report = load(path.parent)
        base, *others = report.arms
        metrics = tuple(
            Metric(LABELS.get(rate.metric, one_line(rate.metric)), rate.share, arm.rate(rate.metric).share)
            for arm in others[-1:]
            for rate in base.rates
            if rate.metric not in FORMS
        )
        whole = base.rates[-1]
        return Verdict(
            word=report.headline.word if report.headline and report.headline.word in SIGNS else "",
            sentence=one_line(report.verdict),
            run=str(report.facts.get("run", "")),
            name=one_line(str(report.facts["name"])),
            rows=int(report.facts["rows"]),
            baseline=f"{whole.share * 100:.1f} % {LABELS.get(whole.metric, one_line(whole.metric))}",
            metrics=metrics,
            reservation=one_line(reservation(report)),
        )
    except (MlxtuneError, OSError, IndexError, *_BROKEN):
        return None
