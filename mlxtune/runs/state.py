"""What is true of a run now: a pure fold over its events."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlxtune.runs.events import Event

Metrics = tuple[tuple[str, float], ...]
Phase = Literal["new", "running", "finished", "stopped", "failed"]

AWAY = 600.0  # seconds between two steps that are not work, unless steps take long


@dataclass(frozen=True)
class Step:
    """One optimizer step: loss is the mean over its trained tokens, speed is trained tokens per second."""

    step: int
    loss: float
    rate: float
    speed: float
    t: float
    metrics: Metrics = ()


@dataclass(frozen=True)
class Validation:
    """Mean loss over the whole validation set after ``step`` steps; ``metrics`` are those of preference training."""

    step: int
    loss: float
    metrics: Metrics = ()


@dataclass(frozen=True)
class Sample:
    """What the model answers to a validation row while it trains."""

    step: int
    prompt: str
    output: str
    verdict: str


HELD_OUT = "held-out row"  # what an arm answers, unless an event says otherwise


@dataclass(frozen=True)
class RunState:
    """A snapshot of a run. Memory is in bytes, ``t`` values are seconds since the epoch."""

    phase: Phase = "new"
    kind: str = "train"
    name: str = ""
    base: str = ""
    pid: int = 0
    total: int = 0
    epochs: int = 0
    steps: tuple[Step, ...] = ()
    validations: tuple[Validation, ...] = ()
    samples: tuple[Sample, ...] = ()
    checkpoints: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    arms: tuple[tuple[str, int, int], ...] = ()  # (arm, held-out rows done, held-out rows)
    answering: tuple[str, str, int, int] | None = None  # (arm, what it works on, done, in all)
    reference: tuple[int, int] = (0, 0)  # pairs that the reference model has scored, and pairs
    memory: int = 0
    peak: int = 0
    limit: int = 0
    resumed: int = 0  # the step that the worker went on from
    started: float = 0.0
    updated: float = 0.0
    error: str = ""
    mend: str = ""
    code: int = 0
    summary: tuple[tuple[str, Any], ...] = ()

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.steps[-1].step if self.steps else 0

    @property
    def speed(self) -> float:
        """Trained tokens per second over the last ten steps."""
        recent = self.steps[-10:]
        return sum(step.speed for step in recent) / len(recent) if recent else 0.0

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take at the pace of the last 50 steps since the worker started; ``None`` before two are known.

        Sleep, and a clock that was set, are no pace.
        """
        recent = [step for step in self.steps[-50:] if step.step > self.resumed]
        gaps = [late.t - early.t for early, late in itertools.pairwise(recent)]
        longest = max(AWAY, 20 * statistics.median(gaps)) if gaps else 0.0
        worked = [gap for gap in gaps if 0 <= gap <= longest]
        return sum(worked) / len(worked) * (self.total - self.step) if worked and self.total else None

    @property
    def best(self) -> Validation | None:
        """The lowest validation so far."""
        return min((item for item in self.validations if item.loss == item.loss), key=lambda item: item.loss, default=None)

    @property
    def ended(self) -> bool:
        """Whether the worker has said its last word."""
        return self.phase in ("finished", "stopped", "failed")


def fold(events: Iterable[Event], state: RunState | None = None) -> RunState:
    """``state`` (or a new one) after ``events``.

    Steps, validations and checkpoints after a restored checkpoint supersede those of before the crash. Events of an unknown
    type only move ``updated``, so that an older reader can follow a newer worker.
    """
    state = state or RunState()
    steps, validations, checkpoints = list(state.steps), list(state.validations), list(state.checkpoints)
    samples, warnings = list(state.samples), list(state.warnings)
    arms = {arm: (done, total) for arm, done, total in state.arms}
    changes: dict[str, Any] = {}
    for event in events:
        changes["updated"] = event["t"]
        match event["type"]:
            case "run.started" | "run.resumed" as type:
                changes |= {"phase": "running", "error": "", "mend": "", "code": 0, "summary": (), "pid": event["pid"]}
                changes |= {"kind": event["kind"], "name": event["name"], "base": event["base"]}
                at = event["step"] if type == "run.resumed" else -1  # a fresh start supersedes everything
                changes |= {"resumed": max(0, at)}
                if type == "run.started":
                    changes |= {"started": event["t"]}
                    arms = {}
                    changes |= {"answering": None}
                if steps or validations or checkpoints or samples:
                    steps = [item for item in steps if item.step <= at]
                    validations = [item for item in validations if item.step <= at]
                    checkpoints = [item for item in checkpoints if item <= at]
                    samples = [item for item in samples if item.step <= at]
            case "model.loaded":
                changes |= {"limit": event["limit"]}
            case "reference":
                changes |= {"reference": (event["done"], event["total"])}
            case "data.ready":
                changes |= {"total": event["steps"], "epochs": event["epochs"]}
            case "step":
                steps.append(
                    Step(event["step"], _number(event["loss"]), event["rate"], event["speed"], event["t"], _metrics(event))
                )
                changes |= {"memory": event["memory"], "peak": event["peak"]}
            case "validation":
                validations.append(Validation(event["step"], _number(event["loss"]), _metrics(event)))
            case "sample":
                samples.append(Sample(event["step"], event["prompt"], event["output"], event["verdict"]))
            case "checkpoint":
                checkpoints.append(event["step"])
            case "arm.started" | "arm.progress" | "arm.finished":
                what, count = event.get("of", HELD_OUT), _answered(event)
                changes |= {"answering": (event["arm"], what, *count)}
                if what == HELD_OUT:
                    arms[event["arm"]] = count
            case "warning":
                warnings.append(event["text"])
            case "run.finished":
                changes |= {"phase": "finished", "summary": tuple(event.get("summary", {}).items())}
            case "run.stopped":
                changes |= {"phase": "stopped", "error": event.get("reason", "")}
            case "run.failed":
                changes |= {"phase": "failed", "error": event["error"], "mend": event["mend"], "code": event.get("code", 4)}
    return replace(
        state,
        steps=tuple(steps),
        validations=tuple(validations),
        checkpoints=tuple(checkpoints),
        samples=tuple(samples),
        warnings=tuple(warnings),
        arms=tuple((arm, done, total) for arm, (done, total) in arms.items()),
        **changes,
    )


def _answered(event: Event) -> tuple[int, int]:
    """How many an arm has answered, and of how many."""
    if event["type"] == "arm.progress":
        return event["done"], event["total"]
    return (event["rows"] if event["type"] == "arm.finished" else 0), event["rows"]


def _metrics(event: Event) -> Metrics:
    return tuple((name, _number(value)) for name, value in event.get("metrics", {}).items())


def _number(value: float | None) -> float:
    """JSON has no NaN: a loss that is not finite is written as null."""
    return float("nan") if value is None else value
