"""How a run is, in the words and signs of the visual language."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlxtune.core.errors import MachineError
from mlxtune.core.text import duration
from mlxtune.runs.registry import Status
from mlxtune.tui.draw import ago
from mlxtune.tui.snapshot import RunView

MACHINE = MachineError.exit_code  # what a run.failed says when disk or memory let it down


@dataclass(frozen=True)
class Sign:
    """A glyph, its token and a word."""

    mark: str
    token: str
    word: str


SIGNS: dict[Status, Sign] = {
    "starting": Sign("●", "$primary", "starting"),
    "running": Sign("●", "$primary", "training"),
    "quiet": Sign("!", "$warning", "quiet"),
    "finished": Sign("✓", "$success", "finished"),
    "stopped": Sign("■", "$muted", "stopped"),
    "failed": Sign("✗", "$error", "failed"),
    "crashed": Sign("✗", "$error", "crashed"),
}
_EVALUATION: dict[Status, str] = {
    "running": "evaluating",
    "finished": "evaluated",
    "stopped": "evaluation stopped",
    "failed": "evaluation failed",
    "crashed": "evaluation crashed",
}


@dataclass(frozen=True)
class Headline:
    """The header's right end: a sign, how far (``step`` of ``total``), and how long."""

    sign: Sign
    step: str
    total: str
    tail: str


def headline(view: RunView, now: float, stopping: bool = False) -> Headline:
    """A run's or an evaluation's state in one line."""
    sign, state = SIGNS[view.status], view.state
    word = sign.word
    if view.status == "quiet":
        word = f"quiet for {duration(now - view.updated)}"
    elif stopping and view.alive:
        word = "stopping"
    elif state.kind == "eval":
        word = _EVALUATION.get(view.status, word)
    step, total = f"{state.step:,}", f"{state.total:,}" if state.total else ""
    if state.kind == "eval":
        step, total = "", ""
        if state.answering and view.alive:
            arm, _, done, all_of_them = state.answering
            step, total = f"{arm} {done:,}", f"{all_of_them:,}"
    elif not state.total and not state.step:
        step = ""
    return Headline(Sign(sign.mark, sign.token, word), step, total, tail(view, now))


def tail(view: RunView, now: float) -> str:
    """How long a live run has left, or how long ago another one ended."""
    if not view.alive:
        return ago(now - view.updated)
    left = time_left(view, now)
    return "" if left is None or view.status == "quiet" else f"{duration(left)} left"


def time_left(view: RunView, now: float) -> float | None:
    """Seconds until a live run should end, counted down between two steps."""
    if view.state.left is None or not view.alive:
        return None
    return max(0.0, view.state.left - max(0.0, now - view.state.steps[-1].t))


def lost_step(view: RunView) -> int | None:
    """The last step, if its loss was not a number."""
    steps = view.state.steps
    return steps[-1].step if steps and not math.isfinite(steps[-1].loss) else None


def result(view: RunView) -> str:
    """What became of a run, in one cell of a list: progress, validation loss, or the word for its end."""
    state = view.state
    if view.alive:
        return f"{state.step:,}/{state.total:,}" if state.total else SIGNS[view.status].word
    if (step := lost_step(view)) is not None:
        return f"NaN at {step:,}"
    if view.status == "finished" and state.validations:
        return f"{state.validations[-1].loss:.3f}"
    return SIGNS[view.status].word


def checkpoint(view: RunView) -> int | None:
    """The newest checkpoint, if there is one."""
    return view.state.checkpoints[-1] if view.state.checkpoints else None


def kept(view: RunView) -> str:
    """What stopping the run now keeps."""
    return f"A stop saves step {view.state.step:,} first, and the run can be resumed from it."


def can_resume(view: RunView) -> bool:
    """Whether the run ended early, not by a fault it would run into again, and left something to go on from."""
    early = view.status in ("stopped", "crashed") or (view.status == "failed" and view.state.code == MACHINE)
    return early and checkpoint(view) is not None
