"""A run's state: what its events say so far."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlxtune.core.errors import InputError
from mlxtune.recipe import EvaluationSection
from mlxtune.runs import events as run_events
from mlxtune.runs.events import HELD_OUT_ROW, TOKEN, WAITING, ArmEvent, ArmProgress, Event, RunStarted, SampleOutcome, WaitReason

Metrics = tuple[tuple[str, float], ...]
Phase = Literal["new", "running", "restarting", "finished", "stopped", "failed"]
Work = Literal["scoring_pairs", "reading_pairs", "validating"]

MIN_ELAPSED = 2.0  # seconds that an arm or a phase must have worked before its remaining time is estimated
_BATCH = EvaluationSection.batch_size  # answers that are generated together, by default


@dataclass(frozen=True, slots=True)
class Step:
    """An optimizer step. ``loss`` is the mean over its trained tokens, and ``speed`` is in trained tokens per second."""

    step: int
    loss: float
    rate: float
    speed: float
    t: float
    seconds: float  # without what is computed only once for a row
    metrics: Metrics = ()


@dataclass(frozen=True, slots=True)
class Validation:
    """The mean loss over the validation set after ``step`` steps. ``metrics`` are preference training metrics."""

    step: int
    loss: float
    metrics: Metrics = ()


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """The model's answer to a validation row during training."""

    step: int
    prompt: str
    output: str
    outcome: SampleOutcome
    failure: str = ""  # the part of the contract that it fails
    limit: int = 0  # the tokens after which it was cut off


@dataclass(frozen=True, slots=True)
class RunWarning:
    code: run_events.WarningCode
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answering:
    """An arm that answers prompts of one kind, in an evaluation, an export, or a generation. Times are seconds since the epoch."""

    arm: str
    kind: str  # of prompt
    done: int
    total: int
    started: float  # when it started on this kind of prompt
    advanced: float  # when it last finished an answer
    kept: int | None = None  # prompts done in its first report: those that earlier evaluations have answered
    longest: int = 0  # tokens of the longest answer of the batch that it writes
    most: int = 0  # the maximum of these tokens; 0 if it writes no batch
    batch_started: float = 0.0  # when the first tokens of that batch were reported
    batch_first: int = 0  # these tokens
    waiting: int = 0  # rows of later batches

    def remaining_seconds(self, now: float) -> float | None:
        """Estimate the rest from its mean speed since its first report, or ``None`` before a tenth.

        ``None`` for answers until a whole batch is done: they are generated together, so that the shortest end first, and the time
        depends on the longest. ``None`` also if the next answer takes longer than the estimate, because only the longest are left.
        """
        kept = self.kept or 0
        if self.kind not in ("reference", "prompt") and self.done - kept < _BATCH:
            return None
        left = _remaining(self.done - kept, self.total - kept, now - self.started)
        return left if left is not None and now - self.advanced <= left else None

    def batch_remaining_seconds(self, now: float) -> float | None:
        """Return the time at this pace until the longest answer has the maximum of tokens, or ``None`` at the batch's start."""
        elapsed, written = now - self.batch_started, self.longest - self.batch_first
        return elapsed / written * (self.most - self.longest) if written > 0 and elapsed >= MIN_ELAPSED else None


@dataclass(slots=True)
class RunState:
    """A snapshot of a run. :meth:`apply` returns a new one; a snapshot never changes. Times are seconds since the epoch."""

    phase: Phase = "new"
    kind: str = "train"
    name: str = ""
    base: str = ""
    pid: int = 0
    waiting: WaitReason | Literal[""] = ""
    total: int = 0  # steps
    epochs: float = 0
    steps: list[Step] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    samples: list[SampleAnswer] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    warnings: list[RunWarning] = field(default_factory=list)
    arms: dict[str, tuple[int, int]] = field(default_factory=dict)  # held-out rows that each arm has answered, and their number
    answering: Answering | None = None
    validation_rows: int = 0
    trial: int = 0  # the trial of a search that trains
    reference_progress: tuple[int, int] = (0, 0)  # (pairs scored or read by the reference model, pairs)
    reference_reads: bool = False  # whether it reads validation pairs, on which the distance from it is measured
    validation_progress: tuple[int, int] = (0, 0)  # (batches of a slow validation that are done, batches)
    phase_started: float = 0.0  # when the current validation or the reference model's pass began, or the next one may begin
    validation_seconds: float = 0.0  # how long the last validation before the final one took, with its sample answers
    validate_every: int = 0  # steps between validations; 0 if unknown
    memory: int = 0  # bytes
    peak: int = 0  # bytes
    limit: int = 0  # bytes
    resumed_step: int = 0  # the step that the worker resumed from
    started: float = 0.0
    updated: float = 0.0
    error: str = ""
    hint: str = ""
    code: int = 0
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return self.steps[-1].step if self.steps else 0

    @property
    def speed(self) -> float:
        """Trained tokens per second over the last ten steps."""
        recent = self.steps[-10:]
        return sum(step.speed for step in recent) / len(recent) if recent else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """An estimate from the last 50 steps of this worker but its first, and an earlier validation, or ``None`` with fewer than three steps.

        It is the time from the last step on, with the validation after that step, if there is one.
        """
        recent = [step.seconds for step in self.steps[-50:] if step.step > self.resumed_step + 1]
        if len(recent) < 2 or not self.total:  # one batch may be much shorter than others
            return None
        every = self.validate_every
        validations = -(-self.total // every) - (self.step - 1) // every if every else 1
        return statistics.mean(recent) * (self.total - self.step) + validations * self.validation_seconds

    @property
    def work(self) -> tuple[Work, int, int] | None:
        """The work before or between steps, if any: what it is, how many pairs or batches are done, and their number."""
        if not self.steps and self.reference_progress[0] < self.reference_progress[1]:
            return "reading_pairs" if self.reference_reads else "scoring_pairs", *self.reference_progress
        return ("validating", *self.validation_progress) if self.validation_progress[1] else None

    @property
    def work_remaining_seconds(self) -> float | None:
        """An estimate for the current validation or the reference model's pass, or ``None`` before the first tenth."""
        done, total = self.validation_progress if self.validation_progress[1] else self.reference_progress
        return _remaining(done, total, self.updated - self.phase_started)

    @property
    def best_validation(self) -> Validation | None:
        return min((item for item in self.validations if item.loss == item.loss), key=lambda item: item.loss, default=None)

    @property
    def ended(self) -> bool:
        return self.phase in ("finished", "stopped", "failed")

    def apply(self, events: Iterable[Event]) -> RunState:
        """Return the state after ``events``. Unknown event types only change ``updated``."""
        new = replace(
            self, steps=[*self.steps], validations=[*self.validations], samples=[*self.samples], checkpoints=[*self.checkpoints],
            warnings=[*self.warnings], arms={**self.arms},
        )  # fmt: skip
        for event in events:
            new.updated = event["t"]
            new._apply_progress(event)
            new._apply_life_cycle(event)
        return new

    def _apply_progress(self, event: Event) -> None:
        match event["type"]:
            case "model.loaded":
                self.limit, self.phase_started = event["limit"], event["t"]
            case "reference":
                self.reference_progress, self.reference_reads = (event["done"], event["total"]), "of" in event
                if event["done"] in (0, event["total"]):
                    self.phase_started = event["t"]
            case "data.ready":
                self.phase_started, self.total, self.epochs = event["t"], event["steps"], event["epochs"]
                self.validation_rows, self.validate_every = event["valid"], event.get("validate_every", 0)
            case "step":
                metrics = _metrics(event.get("metrics"))
                speed, seconds = event["speed"], event["tokens"] / event["speed"] if event["speed"] else 0.0
                self.steps.append(Step(event["step"], _number(event["loss"]), event["rate"], speed, event["t"], seconds, metrics))
                self.memory, self.peak, self.phase_started = event["memory"], event["peak"], event["t"]
            case "validating":
                self.validation_progress = event["done"], event["total"]
            case "validation":
                self._time_validation(event["step"], event["t"])
                self.validation_progress = 0, 0
                self.validations.append(Validation(event["step"], _number(event["loss"]), _metrics(event.get("metrics"))))
            case "sample":
                self._time_validation(event["step"], event["t"])
                failure, limit = event.get("failure", ""), event.get("limit", 0)
                self.samples.append(SampleAnswer(event["step"], event["prompt"], event["output"], event["outcome"], failure, limit))
            case "checkpoint":
                self.checkpoints.append(event["step"])
            case "arm.started" | "arm.progress" | "arm.finished":
                self._apply_answers(event)
            case "trial.started":
                self.trial = event["trial"]
            case "warning":
                self.warnings.append(RunWarning(event["code"], event["values"]))

    def _apply_life_cycle(self, event: Event) -> None:
        match event["type"]:
            case "run.started" | "run.resumed":
                self._start(event)
            case "run.waiting":
                self.waiting = event["reason"]
            case "run.continued":
                self.waiting = ""
            case "run.restarting":
                self.phase = "restarting"
                self.warnings.append(RunWarning("gpu_restart", {"error": event["error"]}))
            case "run.finished":
                self.phase, self.summary = "finished", event["summary"]
            case "run.stopped":
                self.phase, self.error = "stopped", event.get("reason", "")
            case "run.failed":
                self.phase, self.error, self.hint, self.code = "failed", event["error"], event["hint"], event["code"]

    def _start(self, event: RunStarted) -> None:
        """Start or resume. What follows a restored checkpoint was lost in a crash and is repeated; a start replaces everything."""
        self.phase, self.error, self.hint, self.code, self.summary = "running", "", "", 0, {}
        self.pid, self.kind, self.name, self.base = event["pid"], event["kind"], event["name"], event["base"]
        self.waiting, self.validation_progress = "", (0, 0)
        last = event.get("step", -1) if event["type"] == "run.resumed" else -1
        if event["type"] == "run.started":
            self.started, self.answering, self.arms = event["t"], None, {}
        self.resumed_step = max(0, last)
        self.steps = [item for item in self.steps if item.step <= last]
        self.validations = [item for item in self.validations if item.step <= last]
        self.checkpoints = [step for step in self.checkpoints if step <= last]
        self.samples = [item for item in self.samples if item.step <= last]

    def _time_validation(self, step: int, now: float) -> None:
        if step < self.total:
            self.validation_seconds = max(0.0, now - self.phase_started)

    def _apply_answers(self, event: ArmEvent | ArmProgress) -> None:
        """Change ``answering``, and the arm's number of held-out rows."""
        kind, now, one = event.get("of", HELD_OUT_ROW), event["t"], self.answering
        if event["type"] == "arm.progress" and kind in (TOKEN, WAITING):
            if one and kind == WAITING:
                self.answering = replace(one, waiting=event["done"])
            elif one:
                if not one.longest or event["done"] < one.longest:  # of another batch
                    one = replace(one, batch_started=now, batch_first=event["done"])
                self.answering = replace(one, longest=event["done"], most=event["total"])
            return
        if event["type"] == "arm.progress":
            done, total = event["done"], event["total"]
        else:
            done, total = (event["rows"] if event["type"] == "arm.finished" else 0), event["rows"]
        if one is None or event["type"] == "arm.started" or (one.arm, one.kind) != (event["arm"], kind):  # also if it is resumed
            one = Answering(event["arm"], kind, done, total, now, now)
        else:
            one = replace(one, done=done, total=total, advanced=now if done > one.done else one.advanced)
        if event["type"] == "arm.finished":
            one = replace(one, longest=0, most=0)
        elif event["type"] == "arm.progress" and one.kept is None:
            one = replace(one, kept=done)
        self.answering = one
        if kind == HELD_OUT_ROW:
            self.arms[event["arm"]] = done, total


UNREADABLE = (InputError, KeyError, TypeError, ValueError, AttributeError)  # events of another version, or JSON that is no event


def refused_state(error: Exception, run: str) -> RunState:
    """Return the state of a run whose events cannot be read, because of one of the errors in ``UNREADABLE``."""
    known = error if isinstance(error, InputError) else InputError("events.jsonl is damaged.", hint=f"mlxtune runs remove {run}")
    return RunState(phase="failed", error=known.message, hint=known.hint, code=known.exit_code)


def earlier_adapter_step(summary: Mapping[str, Any]) -> int:
    """Return the step whose weights the adapter of a finished run has because of its validation loss, or 0 for the last step."""
    step, last = (summary.get(key) for key in ("adapter_step", "steps"))
    return step if isinstance(step, int) and isinstance(last, int) and step < last else 0


def _remaining(done: int, total: int, elapsed: float) -> float | None:
    """Return the estimated seconds for the rest, or ``None`` before the first tenth and after the end."""
    return elapsed / done * (total - done) if 10 * done >= total > done and elapsed >= MIN_ELAPSED else None


def _metrics(metrics: Mapping[str, float | None] | None) -> Metrics:
    return tuple((name, _number(value)) for name, value in (metrics or {}).items())


def _number(value: float | None) -> float:
    """Convert null back to NaN, which JSON does not have."""
    return float("nan") if value is None else value
