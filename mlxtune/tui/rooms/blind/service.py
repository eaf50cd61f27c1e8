"""The Blind room's service: the two arms to compare, the session's progress, and the session itself."""

from dataclasses import dataclass
from pathlib import Path

from mlxtune.evaluation import report as reports
from mlxtune.evaluation.arms import is_free
from mlxtune.evaluation.blind.blind_session import BlindSession, BlindStatus, blind_status
from mlxtune.evaluation.blind.votes import BlindResult
from mlxtune.evaluation.evidence import load_pairs


@dataclass(frozen=True)
class ArmPair:
    """Two of an evaluation's ``arms``. ``status`` is their session's progress, or ``None`` before it begins."""

    folder: Path
    first: str
    second: str
    arms: tuple[str, ...]
    status: BlindStatus | None


def load_arms(folder: Path, arms: tuple[str, str] | None = None) -> ArmPair | None:
    """Return two arms of an evaluation that generate, by default those of its verdict, or ``None`` if it has only one.

    Raise ``InputError`` if its report or session cannot be read.
    """
    report = reports.load(folder)
    names = tuple(arm.name for arm in report.arms if not is_free(arm.name))
    if len(names) < 2:
        return None
    verdict = (report.headline.first, report.headline.second) if report.headline else ()
    first, second = arms or (verdict if verdict and {*verdict} <= {*names} else (names[0], names[-1]))
    return ArmPair(folder, first, second, names, blind_status(folder, first, second))


def open_session(arms: ArmPair, n: int) -> tuple[BlindSession, BlindResult | None]:
    """Open the session, or begin one with ``n`` pairs. Return it with its result, if revealed. Raise the errors of ``BlindSession``."""
    session = BlindSession(arms.folder, arms.first, arms.second, load_pairs(arms.folder, arms.first, arms.second), n)
    return session, session.reveal() if session.opened else None
