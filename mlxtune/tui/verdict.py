"""The part of an evaluation's report that other rooms show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line

if TYPE_CHECKING:
    from mlxtune.evaluation.scope import Scope

VERDICT_STYLES = {"better": ("✓", "$success"), "worse": ("✗", "$error"), "cannot tell": ("·", "$warning")}
_INVALID = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError)  # raised by JSON that is not a report


@dataclass(frozen=True)
class MetricChange:
    """The rates of a metric on the held-out rows, from 0 to 1: ``before`` of the rival, ``after`` of the arm that the verdict is about."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class VerdictView:
    """A verdict and its figures. ``outcome`` is empty while only the base has been measured.

    ``arm`` is the arm that the verdict is about; ``rival`` is the arm it is compared with. ``caveat`` says why an adapter that is
    better is still not recommended, and ``remedy`` what to evaluate next, if anything. ``scope`` is what was measured.
    """

    outcome: str
    sentence: str
    run_id: str
    name: str
    rows: int
    baseline: str
    metrics: tuple[MetricChange, ...]
    caveat: str = ""
    remedy: str = ""
    arm: str = "tuned"
    rival: str = "base"
    scope: Scope | None = None

    @property
    def glyph(self) -> str:
        return verdict_style(self.outcome, self.caveat)[0] if self.outcome else "◐"

    @property
    def token(self) -> str:
        return verdict_style(self.outcome, self.caveat)[1] if self.outcome else "$primary"


def verdict_style(outcome: str, caveat: str = "") -> tuple[str, str]:
    """Return the glyph and the color token of a verdict. One with a caveat is a warning."""
    return ("!", "$warning") if caveat else VERDICT_STYLES.get(outcome, ("○", "$muted"))


def read_verdict(path: Path) -> VerdictView | None:
    """Read the report at ``path``. Return ``None`` if this version cannot read it."""
    # Imported here because the report's scorers load a schema validator that the first screen must not wait for.
    from mlxtune.evaluation.follow_up import what_to_evaluate
    from mlxtune.evaluation.promotion import promotion_caveat
    from mlxtune.evaluation.report import load
    from mlxtune.evaluation.scope import Scope
    from mlxtune.evaluation.scorers.registry import FORMS, metric_label

    try:
        report = load(path.parent)
        base, *others = report.arms
        rival = next(arm for arm in report.arms if arm.name == (report.headline.first if report.headline else base.name))
        changes = tuple(
            MetricChange(metric_label(rate.metric), rate.share, arm.rate(rate.metric).share)
            for arm in ([report.subject] if others else [])
            for rate in rival.rates
            if rate.metric not in FORMS
        )
        contract = base.rates[-1]
        return VerdictView(
            outcome=report.outcome if report.outcome in VERDICT_STYLES else "",
            sentence=one_line(report.verdict),
            run_id=str(report.facts.get("run", "")),
            name=one_line(str(report.facts["name"])),
            rows=report.headline.paired.total if report.headline else int(report.facts["rows"]),
            baseline=f"{contract.share * 100:.1f}% {metric_label(contract.metric)}",
            metrics=changes,
            caveat=one_line(promotion_caveat(report)),
            remedy=what_to_evaluate(report, path.parent),
            arm=one_line(report.subject.name),
            rival=one_line(rival.name),
            scope=Scope.of(report),
        )
    except (MlxtuneError, OSError, *_INVALID):
        return None
