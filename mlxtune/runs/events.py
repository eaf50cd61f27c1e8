"""A run's event log: ``events.jsonl``, with one JSON object per line.

Every event has ``v``, ``seq`` (0, 1, 2, …), ``t`` (seconds since the epoch), and ``type``. The types are the classes below. They
carry codes and numbers; ``present.run`` words them. Readers ignore unknown types and keys.
"""

import threading
import time
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from mlxtune.core.errors import MachineError
from mlxtune.core.files import Closeable, require_version
from mlxtune.core.journal import Journal, Tail

FILE = "events.jsonl"
VERSION = 2
WaitReason = Literal["power", "heat"]
SampleOutcome = Literal["passes", "fails", "ended", "loop", "cut_off"]
WarningCode = Literal[
    "answers_limited_by_context", "best_checkpoint_damaged", "budget_limits_trials", "budget_spent", "busy_machine", "checkpoint_damaged",
    "displacement", "export_note", "format_lost", "generation_capped", "gpu_restart", "head_computed_twice", "head_not_split",
    "high_learning_rate", "no_perplexity", "not_recomputable", "parent_thinking", "preferences_not_compared", "rows_skipped", "rows_truncated",
    "split_not_recorded", "stopped_early", "template_note", "unknown_conditions",
]  # fmt: skip

# The kinds of prompts that an arm answers, in ``of`` of its events; by default, held-out rows.
HELD_OUT_ROW = "held_out_row"
TIMED = "answer"  # written alone, to measure its time
TOKEN = "token"  # of the longest answer that an arm is writing
WAITING = "waiting_row"  # a row that is not in the batch that an arm is answering, but in a later one
TERMINAL = frozenset({"run.finished", "run.stopped", "run.failed"})
_SYNCED = TERMINAL | {"checkpoint", "run.started", "run.resumed", "run.restarting"}


class BaseEvent(TypedDict):
    v: int
    seq: int
    t: float


class RunStarted(BaseEvent):
    """A worker started, or resumed from the checkpoint at ``step``."""

    type: Literal["run.started", "run.resumed"]
    kind: str  # a key in registry.RUN_KINDS
    name: str
    base: str
    pid: int
    host: str
    step: NotRequired[int]


class ModelLoaded(BaseEvent):
    type: Literal["model.loaded"]
    base: str
    path: str  # its backend and format
    parameters: int
    seconds: float
    limit: int  # the recommended memory limit in bytes


class WorkProgress(BaseEvent):
    """Pairs scored by the reference, replay prompts answered by the base, or batches of a long validation."""

    type: Literal["reference", "replay", "validating"]
    done: int
    total: int
    step: NotRequired[int]
    of: NotRequired[Literal["distance"]]  # the reference model reads validation pairs on which the distance from it is measured


class DataReady(BaseEvent):
    """The data was prepared: its rows, its tokens per epoch, and the length of the run."""

    type: Literal["data.ready"]
    train: int
    valid: int
    test: int
    tokens: int
    trained: int
    truncated: int
    skipped: NotRequired[int]
    conversations: NotRequired[int]  # fewer than ``train`` if answers of one conversation are separate rows
    replayed: NotRequired[int]  # answers of the base that are trained in addition to ``train``
    steps: int
    epochs: float
    checkpointed: NotRequired[bool]  # whether gradient checkpointing is on
    validate_every: NotRequired[int]  # steps between validations; 0 without any


class StepDone(BaseEvent):
    """An optimizer step was taken. JSON has no NaN, so a number that is not finite is null."""

    type: Literal["step"]
    step: int
    epoch: float
    loss: float | None
    rate: float
    norm: NotRequired[float | None]  # of the gradient, before clipping
    tokens: int  # trained
    computed: NotRequired[int]  # positions, including padding
    speed: float  # trained tokens per second
    memory: int  # bytes
    peak: int  # bytes
    metrics: NotRequired[dict[str, float | None]]  # of preference training, with TRL's names


class ValidationDone(BaseEvent):
    type: Literal["validation"]
    step: int
    loss: float | None
    tokens: int
    metrics: NotRequired[dict[str, float | None]]  # also ``kl``, the KL divergence from the reference in nats per token


class SamplingStarted(BaseEvent):
    type: Literal["sampling"]
    step: int
    rows: int


class SampleWritten(BaseEvent):
    type: Literal["sample"]
    step: int
    row: str
    prompt: str
    output: str
    outcome: SampleOutcome  # of the contract or, without one, how the answer ended
    failure: NotRequired[str]  # the part of the contract that it fails
    limit: NotRequired[int]  # the tokens after which it was cut off


class CheckpointSaved(BaseEvent):
    type: Literal["checkpoint"]
    step: int
    seconds: float


class ArmProgress(BaseEvent):
    """An arm has answered ``done`` of ``total`` prompts.

    If ``of`` is ``TOKEN``, the longest answer of its batch has ``done`` of at most ``total`` tokens; if it is ``WAITING``,
    ``done`` of ``total`` rows are in later batches.
    """

    type: Literal["arm.progress"]
    arm: str
    done: int
    total: int
    of: NotRequired[str]


class ArmEvent(BaseEvent):
    """An arm started answering ``rows`` prompts, or finished after ``seconds``. ``cached`` answers come from the cache."""

    type: Literal["arm.started", "arm.finished"]
    arm: str
    rows: int
    of: NotRequired[str]
    cached: NotRequired[bool]
    seconds: NotRequired[float]


class ExportWritten(BaseEvent):
    type: Literal["export.written"]
    form: str
    bytes: int
    seconds: float


class FidelityMeasured(BaseEvent):
    type: Literal["fidelity"]
    faithful: bool
    lost: float | None  # the fraction of the adapter's effect that the export lost
    same: int  # answers that are the same
    rows: int


class SearchPlanned(BaseEvent):
    """A search planned its trials. They are compared on ``rows`` validation rows after each of the ``rungs``, in steps."""

    type: Literal["search.planned"]
    trials: int
    rungs: list[int]
    rows: int


class TrialStarted(BaseEvent):
    """A trial of a search continues to ``steps`` steps."""

    type: Literal["trial.started"]
    trial: int
    steps: int
    values: dict[str, float | int | str]  # hyperparameters


class TrialScored(BaseEvent):
    """A trial was scored after ``steps`` steps: its rate on the validation rows, and the loss of their references."""

    type: Literal["trial.scored"]
    trial: int
    steps: int
    rate: float
    loss: float | None


class TrialEnded(BaseEvent):
    type: Literal["trial.ended"]
    trial: int
    status: Literal["pruned", "dropped", "failed"]
    error: NotRequired[str]  # why it failed
    standing: NotRequired[dict[str, Any]]  # of a pruned trial: the fields of ``decision.Standing``


class SearchDecided(BaseEvent):
    """A search ended with a decision. The fields are those of ``decision.SearchDecision``."""

    type: Literal["search.decided"]
    outcome: str
    selected: int
    tied: list[int]
    compared: int


class RowsProposed(BaseEvent):
    """A generation proposed rows. ``refused`` counts the other rows by reason."""

    type: Literal["rows.proposed"]
    proposed: int
    refused: dict[str, int]


class BareEvent(BaseEvent):
    """A sign of life, written every 5 s by a thread that never uses MLX, or the end of a wait."""

    type: Literal["heartbeat", "run.continued"]


class WarningRaised(BaseEvent):
    type: Literal["warning"]
    code: WarningCode
    values: dict[str, Any]


class SleepPrevented(BaseEvent):
    """The Mac stays awake as long as the worker runs. ``pid`` is the process that ensures it."""

    type: Literal["sleep.prevented"]
    pid: int


class RunWaiting(BaseEvent):
    """The run waits until this machine is connected to power, or has cooled down."""

    type: Literal["run.waiting"]
    reason: WaitReason


class RunRestarting(BaseEvent):
    """The worker starts again after a GPU error, from the newest checkpoint and with smaller GPU commands."""

    type: Literal["run.restarting"]
    error: str
    hint: str


class RunFinished(BaseEvent):
    type: Literal["run.finished"]
    summary: dict[str, Any]


class RunStopped(BaseEvent):
    """The worker stopped after ``step``. ``reason`` is empty if the user stopped it."""

    type: Literal["run.stopped"]
    step: int
    reason: NotRequired[str]


class RunFailed(BaseEvent):
    type: Literal["run.failed"]
    error: str
    hint: str
    code: int  # the exit code; 4 means an internal or system error


Event = (
    RunStarted | ModelLoaded | WorkProgress | DataReady | StepDone | ValidationDone | SamplingStarted | SampleWritten | CheckpointSaved
    | ArmProgress | ArmEvent | ExportWritten | FidelityMeasured | SearchPlanned | TrialStarted | TrialScored | TrialEnded | SearchDecided
    | RowsProposed | BareEvent | WarningRaised | SleepPrevented | RunWaiting | RunRestarting | RunFinished | RunStopped | RunFailed
)  # fmt: skip
EventType = Literal[
    "run.started", "run.resumed", "model.loaded", "reference", "replay", "data.ready", "step", "validating", "validation", "sampling", "sample",
    "checkpoint", "arm.started", "arm.progress", "arm.finished", "export.written", "fidelity", "heartbeat", "warning", "sleep.prevented",
    "search.planned", "trial.started", "trial.scored", "trial.ended", "search.decided", "rows.proposed", "run.waiting", "run.continued", "run.restarting", "run.finished", "run.stopped", "run.failed",
]  # fmt: skip


class RunRemoved(MachineError):
    """The run's folder or its event log was deleted while the run was active."""


class EventWriter(Closeable):
    """Append events to a run's log. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / FILE)
        self._seq = 1 + max((event["seq"] for event in read_all(folder)), default=-1)  # an unreadable line leaves a gap
        self._lock = threading.Lock()

    def emit(self, type: EventType, **fields: Any) -> None:
        """Write one event. Raise ``MachineError`` if the disk is full, and ``RunRemoved`` if the log was deleted."""
        with self._lock:
            if not self._journal.path.exists():  # the journal would create it again, in a folder that is being deleted
                raise RunRemoved(f"The folder {self._journal.path.parent} was deleted, so the run was ended.")
            self._journal.append({"v": VERSION, "seq": self._seq, "t": round(time.time(), 3), "type": type, **fields})
            self._seq += 1
            if type in _SYNCED:
                self._journal.sync()

    def warn(self, code: WarningCode, **values: Any) -> None:
        self.emit("warning", code=code, values=values)

    def close(self) -> None:
        self._journal.close()


class EventReader:
    """Read a run's events. Each :meth:`read` returns the new ones, oldest first."""

    def __init__(self, folder: Path) -> None:
        self._tail = Tail(folder / FILE)

    def read(self) -> list[Event]:
        """Raise ``InputError`` if another version wrote an event."""
        records = self._tail.read()
        for record in records[:1]:
            require_version(record.get("v"), VERSION, self._tail.path)
        return cast(list[Event], records)


def read_all(folder: Path) -> list[Event]:
    """Return all complete events of a run, oldest first."""
    return EventReader(folder).read()
