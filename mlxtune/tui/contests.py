"""What the Blind room asks of the core: which two arms are compared, how far that has come, and the session itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxtune.evaluation.ballot import Result
    from mlxtune.evaluation.blind import Session
    from mlxtune.evaluation.voted import Standing


@dataclass(frozen=True)
class Contest:
    """Two ``arms`` of a finished evaluation, ``first`` and ``second``, and how far their session has come, if one was begun."""

    folder: Path
    first: str
    second: str
    arms: tuple[str, ...]
    known: Standing | None

    @property
    def others(self) -> list[tuple[str, str]]:
        """Every two of the arms."""
        return [(first, second) for at, second in enumerate(self.arms) for first in self.arms[:at]]


def contest(folder: Path, two: tuple[str, str] | None = None) -> Contest | None:
    """The contest of ``two`` arms of an evaluation, the base and the last one if none are named; ``None`` where there is one arm.

    Raises ``InputError`` when its report or its session cannot be read.
    """
    from mlxtune.evaluation import report as reports
    from mlxtune.evaluation.voted import standing

    names = tuple(arm.arm for arm in reports.load(folder).arms)
    if len(names) < 2:
        return None
    first, second = two or (names[0], names[-1])
    return Contest(folder, first, second, names, standing(folder, first, second))


def differing(of: Contest) -> int:
    """How many rows could be shown: both arms answered them, and not alike. Raises ``InputError``."""
    from mlxtune.evaluation.answered import pairs
    from mlxtune.evaluation.voted import uneven

    return uneven(pairs(of.folder, of.first, of.second))


def enter(of: Contest, n: int) -> tuple[Session, Result | None]:
    """The session, a new one of ``n`` pairs if none was begun, and its result if the seal was opened. Raises as ``Session`` does."""
    from mlxtune.evaluation.answered import pairs
    from mlxtune.evaluation.blind import Session

    session = Session(of.folder, of.first, of.second, pairs(of.folder, of.first, of.second), n)
    return session, session.reveal() if session.opened else None
