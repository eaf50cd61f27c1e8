"""A run's state, computed as a pure fold over its events."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlxtune.core.text import duration, one_line, plural
from mlxtune.recipe import EvaluationSection
from mlxtune.runs.events import ArmEvent, ArmProgress, Event, WaitReason

Metrics = tuple[tuple[str, float], ...]
Phase = Literal["new", "running", "restarting", "finished", "stopped", "failed"]

MAX_PAUSE = 600.0  # a longer gap between steps means that the machine was asleep, unless steps are slow
MIN_ELAPSED = 2.0  # seconds that an arm or a phase must have worked before its remaining time is estimated
_LONG = 10.0  # seconds after which the time that an arm has taken so far is shown
_BATCH = EvaluationSection.batch_size  # answers that are generated together, by default
HELD_OUT_ROW = "held-out row"  # what an arm answers, unless the event says otherwise
TIMED = "answer"  # written alone, to measure its time
TOKEN = "token"  # of the longest answer that an arm is writing
WAITING = "waiting row"  # a row that is not in the batch that an arm is answering, but in a later one


@dataclass(frozen=True, slots=True)
class Step:
    """An optimizer step. ``loss`` is the mean over its trained tokens, and ``speed`` is in trained tokens per second."""

    step: int
    loss: float
    rate: float
    speed: float
    t: float
    metrics: Metrics = ()


@dataclass(frozen=True, slots=True)
class Validation:
    """The mean loss over the validation set after ``step`` steps. ``metrics`` are preference training metrics."""

    step: int
    loss: float
    metrics: Metrics = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """The model's answer to a validation row during training."""

    step: int
    prompt: str
    output: str
    verdict: str


@dataclass(frozen=True, slots=True)
class RunState:
    """A snapshot of a run. Memory is in bytes, times are seconds since the epoch."""

    phase: Phase = "new"
    kind: str = "train"
    name: str = ""
    base: str = ""
    pid: int = 0
    waiting: WaitReason | Literal[""] = ""
    total: int = 0
    epochs: float = 0
    steps: tuple[Step, ...] = ()
    validations: tuple[Validation, ...] = ()
    samples: tuple[Sample, ...] = ()
    checkpoints: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    arms: tuple[tuple[str, int, int], ...] = ()  # (arm, held-out rows done, held-out rows)
    current_arm: tuple[str, str, int, int] | None = None  # (arm, kind of prompt, done, total)
    answer_tokens: tuple[int, int] = (0, 0)  # (tokens of the longest answer of the batch that it writes, maximum)
    rows_waiting: int = 0  # rows of later batches
    batch_started: tuple[float, int] = (0.0, 0)  # (time, tokens) of the first report about that batch
    arm_started: float = 0.0  # when the current arm started on this kind of prompt
    arm_kept: int | None = None  # prompts done in its first report: those that earlier evaluations have answered
    arm_advanced: float = 0.0  # when it last finished an answer
    validation_rows: int = 0
    trial: int = 0  # the trial of a search that trains
    reference_progress: tuple[int, int] = (0, 0)  # (pairs scored or read by the reference model, pairs)
    reference_reads: bool = False  # whether it reads validation pairs, on which the distance from it is measured
    validation_progress: tuple[int, int] = (0, 0)  # (batches of a slow validation that are done, batches)
    phase_started: float = 0.0  # when the current validation or the reference model's pass began, or the next one may begin
    validation_seconds: float = 0.0  # how long the last validation before the final one took, with its sample answers
    validate_every: int = 0  # steps between validations; 0 if unknown
    memory: int = 0
    peak: int = 0
    limit: int = 0
    resumed_step: int = 0  # the step that the worker resumed from
    started: float = 0.0
    updated: float = 0.0
    error: str = ""
    hint: str = ""
    code: int = 0
    summary: tuple[tuple[str, Any], ...] = ()

    @property
    def step(self) -> int:
        """Number of completed optimizer steps."""
        return self.steps[-1].step if self.steps else 0

    @property
    def speed(self) -> float:
        """Trained tokens per second over the last ten steps."""
        recent = self.steps[-10:]
        return sum(step.speed for step in recent) / len(recent) if recent else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """An estimate from the last 50 steps of this worker and an earlier validation, or ``None`` with fewer than two steps.

        It is the time from the last step on, with the validation after that step, if there is one. Ignores sleep and clock changes.
        """
        recent = [step for step in self.steps[-50:] if step.step > self.resumed_step]
        pairs = list(itertools.pairwise(recent))
        plain = [pair for pair in pairs if not self._is_validated(pair[0].step)]
        gaps = [late.t - early.t for early, late in plain or pairs]
        validations = 1
        if plain and self.validate_every:
            done = (self.step - 1) // self.validate_every
            validations = -(-self.total // self.validate_every) - done
        longest = max(MAX_PAUSE, 20 * statistics.median(gaps)) if gaps else 0.0
        durations = [gap for gap in gaps if 0 <= gap <= longest]
        if not durations or not self.total:
            return None
        return sum(durations) / len(durations) * (self.total - self.step) + validations * self.validation_seconds

    def _is_validated(self, step: int) -> bool:
        """Whether a validation follows ``step``, as far as is known."""
        return bool(self.validate_every) and (step % self.validate_every == 0 or step == self.total)

    @property
    def phase_progress(self) -> tuple[str, int, int, str] | None:
        """The work before or between steps, if any: what it is, how much is done, the total, and the total with its unit."""
        if not self.steps and self.reference_progress[0] < self.reference_progress[1]:
            done, total = self.reference_progress
            what = "reads validation pairs" if self.reference_reads else "scores the pairs"
            return f"the reference model {what}", done, total, plural(total, "pair")
        if self.validation_progress[1]:
            done, total = self.validation_progress
            return "computing the validation loss", done, total, plural(total, "batch", "batches")
        return None

    @property
    def phase_remaining_seconds(self) -> float | None:
        """An estimate for the current validation or the reference model's pass, or ``None`` before the first tenth."""
        done, total = self.validation_progress if self.validation_progress[1] else self.reference_progress
        return _remaining(done, total, self.updated - self.phase_started)

    @property
    def best_validation(self) -> Validation | None:
        """The validation with the lowest loss so far."""
        return min((item for item in self.validations if item.loss == item.loss), key=lambda item: item.loss, default=None)

    @property
    def earlier_adapter_step(self) -> int:
        """See :func:`earlier_adapter_step`."""
        return earlier_adapter_step(dict(self.summary))

    @property
    def arm_progress(self) -> str:
        """The model's current task in an evaluation or export, with a count; empty if nothing has been reported yet."""
        if self.current_arm is None:
            return ""
        arm, kind, done, total = self.current_arm
        verb = {"reference": "computes the likelihood of", "prompt": "reads", TIMED: "times"}.get(kind, "answers")
        purpose = " to find similar rows" if kind == "prompt" else ""
        count = f"{one_line(arm, 40)} {verb} {done:,} of {plural(total, kind)}{purpose}"
        return ", ".join(filter(None, [count, self.arm_pace]))

    @property
    def arm_pace(self) -> str:
        """How far the model's current batch of answers is, and the time left or, if that is unknown, its maximum or the time so far."""
        if self.current_arm is None:
            return ""
        _, kind, done, total = self.current_arm
        if done >= total:
            return ""
        seconds, elapsed = self.arm_remaining_seconds or 0.0, self.updated - self.arm_started
        longest, most = self.answer_tokens if kind == HELD_OUT_ROW else (0, 0)
        reading = "reading the prompts" if most else ""
        tokens = f"the longest of this batch at token {longest:,} of at most {most:,}" if longest else reading
        if seconds >= 1:
            time = f"{duration(seconds)} left"
        elif longest and (seconds := self.batch_remaining_seconds or 0.0) >= 1:
            time = f"up to {duration(seconds)} more for the batch"
            time += f", then {plural(self.rows_waiting, 'more row')}" if self.rows_waiting else ""
        else:
            time = f"{duration(elapsed)} so far" if elapsed >= _LONG else ""
        return ", ".join(filter(None, [tokens, time]))

    @property
    def batch_remaining_seconds(self) -> float | None:
        """The time at this pace until the longest answer of the current batch has the maximum of tokens, or ``None`` at its start."""
        started, first = self.batch_started
        longest, most = self.answer_tokens
        elapsed = self.updated - started
        return elapsed / (longest - first) * (most - longest) if longest > first and elapsed >= MIN_ELAPSED else None

    @property
    def arm_remaining_seconds(self) -> float | None:
        """An estimate for the current arm and kind of prompt from its mean speed since its first report, or ``None`` before a tenth.

        ``None`` for answers until a whole batch is done: they are generated together, so that the shortest end first, and the time
        depends on the longest. ``None`` also if the next answer takes longer than the estimate, because only the longest are left.
        """
        if self.current_arm is None:
            return None
        _, kind, done, total = self.current_arm
        kept = self.arm_kept or 0
        if kind not in ("reference", "prompt") and done - kept < _BATCH:
            return None
        left = _remaining(done - kept, total - kept, self.updated - self.arm_started)
        return left if left is not None and self.updated - self.arm_advanced <= left else None

    @property
    def ended(self) -> bool:
        """Whether the worker has written its terminal event."""
        return self.phase in ("finished", "stopped", "failed")


def earlier_adapter_step(summary: Mapping[str, Any]) -> int:
    """Return the step whose weights the adapter has because its validation loss was the lowest, or 0 if it is the last step.

    ``summary`` is that of ``run.finished``.
    """
    step, last = (summary.get(key) for key in ("adapter_step", "steps"))
    return step if isinstance(step, int) and isinstance(last, int) and step < last else 0


def fold(events: Iterable[Event], state: RunState | None = None) -> RunState:
    """Return ``state`` (or a new one) after ``events``.

    Steps, validations, and checkpoints after a restored checkpoint replace the ones from before the crash. Unknown event types
    only change ``updated``.
    """
    state = state or RunState()
    steps, validations, checkpoints = list(state.steps), list(state.validations), list(state.checkpoints)
    samples, warnings = list(state.samples), list(state.warnings)
    arms = {arm: (done, total) for arm, done, total in state.arms}
    changes: dict[str, Any] = {}
    for event in events:
        changes["updated"] = event["t"]
        if event["type"] in ("validation", "sample") and event["step"] < changes.get("total", state.total):
            since = changes.get("phase_started", state.phase_started)
            changes["validation_seconds"] = max(0.0, event["t"] - since)
        match event["type"]:
            case "run.started" | "run.resumed":
                changes |= {"phase": "running", "error": "", "hint": "", "code": 0, "summary": (), "pid": event["pid"]}
                changes |= {"waiting": "", "validation_progress": (0, 0)}
                changes |= {"kind": event["kind"], "name": event["name"], "base": event["base"]}
                last_valid = -1  # a fresh start replaces everything
                if event["type"] == "run.resumed":
                    last_valid = event["step"]
                else:
                    changes |= {"started": event["t"], "current_arm": None}
                    arms = {}
                changes["resumed_step"] = max(0, last_valid)
                steps = [item for item in steps if item.step <= last_valid]
                validations = [item for item in validations if item.step <= last_valid]
                checkpoints = [step for step in checkpoints if step <= last_valid]
                samples = [item for item in samples if item.step <= last_valid]
            case "model.loaded":
                changes |= {"limit": event["limit"], "phase_started": event["t"]}
            case "reference":
                changes |= {"reference_progress": (event["done"], event["total"]), "reference_reads": "of" in event}
                if event["done"] in (0, event["total"]):
                    changes["phase_started"] = event["t"]
            case "data.ready":
                changes["phase_started"] = event["t"]
                changes |= {"total": event["steps"], "epochs": event["epochs"], "validation_rows": event["valid"]}
                changes["validate_every"] = event.get("validate_every", 0)
            case "step":
                metrics = _metrics(event.get("metrics"))
                steps.append(Step(event["step"], _number(event["loss"]), event["rate"], event["speed"], event["t"], metrics))
                changes |= {"memory": event["memory"], "peak": event["peak"], "phase_started": event["t"]}
            case "validating":
                changes["validation_progress"] = (event["done"], event["total"])
            case "validation":
                changes["validation_progress"] = (0, 0)
                validations.append(Validation(event["step"], _number(event["loss"]), _metrics(event.get("metrics"))))
            case "sample":
                samples.append(Sample(event["step"], event["prompt"], event["output"], event["verdict"]))
            case "checkpoint":
                checkpoints.append(event["step"])
            case "arm.progress" if event.get("of") == WAITING:
                changes["rows_waiting"] = event["done"]
            case "arm.progress" if event.get("of") == TOKEN:
                longest, _ = changes.get("answer_tokens", state.answer_tokens)
                if not longest or event["done"] < longest:
                    changes["batch_started"] = (event["t"], event["done"])
                changes["answer_tokens"] = (event["done"], event["total"])
            case "arm.started" | "arm.progress" | "arm.finished":
                prompt_kind, progress = event.get("of", HELD_OUT_ROW), _arm_progress(event)
                if event["type"] != "arm.progress":
                    changes["answer_tokens"] = (0, 0)
                before = changes.get("current_arm", state.current_arm) or ("", "", 0, 0)
                if event["type"] == "arm.started" or before[:2] != (event["arm"], prompt_kind):  # also if it is resumed
                    changes |= {"arm_started": event["t"], "arm_advanced": event["t"], "arm_kept": None}
                elif progress[0] > before[2]:
                    changes["arm_advanced"] = event["t"]
                if event["type"] == "arm.progress" and changes.get("arm_kept", state.arm_kept) is None:
                    changes["arm_kept"] = progress[0]
                changes["current_arm"] = (event["arm"], prompt_kind, *progress)
                if prompt_kind == HELD_OUT_ROW:
                    arms[event["arm"]] = progress
            case "trial.started":
                changes["trial"] = event["trial"]
            case "warning":
                warnings.append(event["text"])
            case "run.waiting":
                changes["waiting"] = event["reason"]
            case "run.continued":
                changes["waiting"] = ""
            case "run.restarting":
                changes["phase"] = "restarting"
                warnings.append(f"{event['error']} The run was resumed with smaller GPU commands.")
            case "run.finished":
                changes |= {"phase": "finished", "summary": tuple(event.get("summary", {}).items())}
            case "run.stopped":
                changes |= {"phase": "stopped", "error": event.get("reason", "")}
            case "run.failed":
                hint = event.get("hint", event.get("mend", ""))  # runs from old versions have mend
                changes |= {"phase": "failed", "error": event["error"], "hint": hint, "code": event.get("code", 4)}
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


def _remaining(done: int, total: int, elapsed: float) -> float | None:
    """Return the estimated seconds for the rest, or ``None`` before the first tenth and after the end."""
    return elapsed / done * (total - done) if 10 * done >= total > done and elapsed >= MIN_ELAPSED else None


def _arm_progress(event: ArmEvent | ArmProgress) -> tuple[int, int]:
    if event["type"] == "arm.progress":
        return event["done"], event["total"]
    return (event["rows"] if event["type"] == "arm.finished" else 0), event["rows"]


def _metrics(metrics: Mapping[str, float | None] | None) -> Metrics:
    return tuple((name, _number(value)) for name, value in (metrics or {}).items())


def _number(value: float | None) -> float:
    """Convert null back to NaN, which JSON does not have."""
    return float("nan") if value is None else value
