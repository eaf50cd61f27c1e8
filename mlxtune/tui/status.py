"""Describe the status of a run as text."""

from dataclasses import dataclass

from mlxtune.core.text import duration
from mlxtune.present.run import STATUS_LABELS, prompt_noun
from mlxtune.runs.events import HELD_OUT_ROW, TIMED
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.tui.render.text import ago
from mlxtune.workspace.index import RunView

_RUNNING = {  # by the kind of a run
    "train": "training",
    "eval": "evaluating",
    "search": "searching",
    "generate": "generating",
    "export": "exporting",
}


@dataclass(frozen=True)
class Headline:
    """A run's status for the header: a glyph, a word, the progress (``step`` of ``total``) and a time."""

    glyph: str
    style: str
    label: str
    step: str
    total: str
    time: str


def headline(view: RunView, now: float, stopping: bool = False) -> Headline:
    """Return the status of a run or an evaluation in one line."""
    sign, state, kind = STATUS_LABELS[view.status], view.state, view.run.kind
    label = sign.text
    if view.status == "quiet":
        label = f"quiet for {duration(now - view.updated)}"
    elif stopping and view.alive:
        label = "stopping"
    elif view.status == "running":
        label = _RUNNING.get(kind, label)
    elif kind != "train" and not view.alive:
        label = f"{RUN_KINDS[kind].noun} {label}"
    step, total = f"{state.step:,}", f"{state.total:,}" if state.total else ""
    if kind in ("eval", "generate", "export"):
        step, total = "", ""
        if (one := state.answering) and view.alive:
            part = {HELD_OUT_ROW: "", "prompt": ", similar rows", "reference": ", likelihoods", TIMED: ", timing"}.get(
                one.kind, f", {prompt_noun(one.kind)}"
            )
            subject = "" if kind == "generate" else f"{one.arm}{part} "
            step, total = f"{subject}{one.done:,}", f"{one.total:,}"
    elif kind == "search":
        step = f"trial {state.trial}" if state.trial and view.alive else ""
    elif not state.total and not state.step:
        step = ""
    return Headline(sign.glyph, f"${sign.style}", label, step, total, "" if stopping else _time(view, now))


def _time(view: RunView, now: float) -> str:
    """Return a live run's remaining time, or how long ago the run ended."""
    if not view.alive:
        return ago(now - view.updated)
    if view.run.kind in ("eval", "export"):
        return ""  # the estimate is about one of several kinds of work
    left = view.time_left(now)
    return "" if left is None or view.status != "running" else f"{duration(left)} left"


def brief_result(view: RunView) -> str:
    """Return a run's result for one cell of a list: its progress, its validation loss, or its status."""
    state = view.state
    if view.alive:
        return f"{state.step:,}/{state.total:,}" if state.total else STATUS_LABELS[view.status].text
    if (step := view.nan_step) is not None:
        return f"NaN at {step:,}"
    if view.status == "finished" and state.validations:
        return f"{state.validations[-1].loss:.3f}"
    return STATUS_LABELS[view.status].text
