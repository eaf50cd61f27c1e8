"""A run's event log: ``events.jsonl``, with one JSON object per line.

Every event has ``v``, ``seq`` (0, 1, 2, …), ``t`` (seconds since the epoch), and ``type``. The types are the classes below. Readers
ignore unknown types and keys, so an older mlxtune can follow a newer worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NotRequired, TypedDict, Union, cast, get_args, get_origin, get_type_hints

from mlxtune.core.errors import MachineError
from mlxtune.core.journal import Journal, Tail

FILE = "events.jsonl"
VERSION = 1
WaitReason = Literal["power", "heat"]
TERMINAL = frozenset({"run.finished", "run.stopped", "run.failed"})
_SYNCED = TERMINAL | {"checkpoint", "run.started", "run.resumed", "run.restarting"}


class BaseEvent(TypedDict):
    """The fields that every event has."""

    v: int
    seq: int
    t: float


class RunStarted(BaseEvent):
    """A worker started, or resumed from the checkpoint at ``step``. ``kind`` is a key in ``registry.RUN_KINDS``."""

    type: Literal["run.started", "run.resumed"]
    kind: str
    name: str
    base: str
    pid: int
    host: str
    step: NotRequired[int]


class ModelLoaded(BaseEvent):
    """A model was loaded. ``path`` describes its backend and format; ``limit`` is the recommended memory limit in bytes."""

    type: Literal["model.loaded"]
    base: str
    path: str
    parameters: int
    seconds: float
    limit: int


class ReferenceProgress(BaseEvent):
    """The number of pairs that the reference model has scored for preference training.

    If ``of`` is ``"distance"``, it has read validation pairs on which the distance from it is measured.
    """

    type: Literal["reference"]
    done: int
    total: int
    of: NotRequired[Literal["distance"]]


class ReplayProgress(BaseEvent):
    """The number of replay prompts that the base has answered."""

    type: Literal["replay"]
    done: int
    total: int


class DataReady(BaseEvent):
    """The data was prepared: row counts, token counts, and whether gradient checkpointing is on (``checkpointed``).

    ``conversations`` is less than ``train`` if answers of one conversation are separate rows. ``replayed`` rows, answers of the
    base, are trained in addition to ``train``. ``validate_every`` is the number of steps between validations; 0 without any.
    """

    type: Literal["data.ready"]
    train: int
    valid: int
    test: int
    tokens: int
    trained: int
    truncated: int
    skipped: NotRequired[int]
    conversations: NotRequired[int]
    replayed: NotRequired[int]
    steps: int
    epochs: float
    checkpointed: NotRequired[bool]
    validate_every: NotRequired[int]


class StepDone(BaseEvent):
    """An optimizer step was taken.

    ``norm`` is the gradient norm before clipping, ``tokens`` the number of trained tokens, ``computed`` the number of positions
    including padding, and ``speed`` the trained tokens per second. ``memory`` and ``peak`` are in bytes. ``metrics`` are preference
    training metrics with TRL's names. JSON has no NaN, so a number that is not finite is null.
    """

    type: Literal["step"]
    step: int
    epoch: float
    loss: float | None
    rate: float
    norm: NotRequired[float | None]
    tokens: int
    computed: NotRequired[int]
    speed: float
    memory: int
    peak: int
    metrics: NotRequired[dict[str, float | None]]


class ValidationProgress(BaseEvent):
    """The number of validation batches whose loss has been computed. Emitted only if the validation takes long."""

    type: Literal["validating"]
    step: int
    done: int
    total: int


class ValidationDone(BaseEvent):
    """The validation loss was computed. ``metrics`` also has ``kl``, the KL divergence from the reference in nats per token."""

    type: Literal["validation"]
    step: int
    loss: float | None
    tokens: int
    metrics: NotRequired[dict[str, float | None]]


class SamplingStarted(BaseEvent):
    """The model starts answering ``rows`` validation rows."""

    type: Literal["sampling"]
    step: int
    rows: int


class SampleWritten(BaseEvent):
    """The model answered a validation row."""

    type: Literal["sample"]
    step: int
    row: str
    prompt: str
    output: str
    verdict: str


class CheckpointSaved(BaseEvent):
    """A checkpoint was written to disk."""

    type: Literal["checkpoint"]
    step: int
    seconds: float


class ArmProgress(BaseEvent):
    """An arm has answered ``done`` of ``total`` prompts. ``of`` says what they are; by default, held-out rows.

    If ``of`` is ``token``, the longest answer of its batch has ``done`` of at most ``total`` tokens; if it is ``waiting row``,
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
    """An export was written to disk."""

    type: Literal["export.written"]
    form: str
    bytes: int
    seconds: float


class FidelityMeasured(BaseEvent):
    """The export was compared with the adapter. ``lost`` is the fraction of the adapter's effect that the export lost."""

    type: Literal["fidelity"]
    faithful: bool
    lost: float | None
    text: str


class SearchPlanned(BaseEvent):
    """A search planned its trials. They are compared on ``rows`` validation rows after each of the ``rungs``, in steps."""

    type: Literal["search.planned"]
    trials: int
    rungs: list[int]
    rows: int


class TrialStarted(BaseEvent):
    """A trial of a search continues to ``steps`` steps. ``values`` describes its hyperparameters."""

    type: Literal["trial.started"]
    trial: int
    steps: int
    values: str


class TrialScored(BaseEvent):
    """A trial was scored after ``steps`` steps: its contract rate on the validation rows, and the loss of their references."""

    type: Literal["trial.scored"]
    trial: int
    steps: int
    rate: float
    loss: float | None


class TrialEnded(BaseEvent):
    """A trial does not continue: it was ``pruned`` or ``dropped``, or it ``failed``."""

    type: Literal["trial.ended"]
    trial: int
    status: Literal["pruned", "dropped", "failed"]
    reason: str


class SearchDecided(BaseEvent):
    """A search ended with a decision, which ``text`` describes."""

    type: Literal["search.decided"]
    selected: int
    text: str


class RowsProposed(BaseEvent):
    """A generation proposed rows. ``refused`` counts the other rows by reason."""

    type: Literal["rows.proposed"]
    proposed: int
    refused: dict[str, int]


class Heartbeat(BaseEvent):
    """A sign of life, written every 5 s by a thread that never uses MLX."""

    type: Literal["heartbeat"]


class WarningRaised(BaseEvent):
    """A warning for the user."""

    type: Literal["warning"]
    text: str


class SleepPrevented(BaseEvent):
    """The Mac stays awake as long as the worker runs. ``pid`` is the process that ensures it."""

    type: Literal["sleep.prevented"]
    pid: int


class RunWaiting(BaseEvent):
    """The run waits until this machine is connected to power, or has cooled down."""

    type: Literal["run.waiting"]
    reason: WaitReason


class RunContinued(BaseEvent):
    """The run no longer waits."""

    type: Literal["run.continued"]


class RunRestarting(BaseEvent):
    """The worker starts again after a GPU error, from the newest checkpoint and with smaller GPU commands."""

    type: Literal["run.restarting"]
    error: str
    hint: str


class RunFinished(BaseEvent):
    """The worker finished its work."""

    type: Literal["run.finished"]
    summary: dict[str, Any]


class RunStopped(BaseEvent):
    """The worker stopped after ``step``. ``reason`` is empty if the user stopped it."""

    type: Literal["run.stopped"]
    step: int
    reason: NotRequired[str]


class RunFailed(BaseEvent):
    """The worker failed. ``code`` is the exit code; 4 means an internal or system error. Old runs have ``mend``, not ``hint``."""

    type: Literal["run.failed"]
    error: str
    hint: NotRequired[str]
    mend: NotRequired[str]
    code: NotRequired[int]


Event = (
    RunStarted | ModelLoaded | ReferenceProgress | ReplayProgress | DataReady | StepDone | ValidationProgress | ValidationDone
    | SamplingStarted | SampleWritten | CheckpointSaved | ArmProgress | ArmEvent | ExportWritten | FidelityMeasured | SearchPlanned | TrialStarted | TrialScored
    | TrialEnded | SearchDecided | RowsProposed | Heartbeat | WarningRaised | SleepPrevented | RunWaiting | RunContinued
    | RunRestarting | RunFinished | RunStopped | RunFailed
)  # fmt: skip
EventType = Literal[
    "run.started", "run.resumed", "model.loaded", "reference", "replay", "data.ready", "step", "validating", "validation", "sampling", "sample",
    "checkpoint", "arm.started", "arm.progress", "arm.finished", "export.written", "fidelity", "heartbeat", "warning", "sleep.prevented",
    "search.planned", "trial.started", "trial.scored", "trial.ended", "search.decided", "rows.proposed", "run.waiting", "run.continued", "run.restarting", "run.finished", "run.stopped", "run.failed",
]  # fmt: skip


_BASE_KEYS = {"v": (int,), "seq": (int,), "t": (int, float), "type": (str,)}

_MAX_TIME = 1e11  # seconds since the epoch; a date that every platform can show


class RunRemoved(MachineError):
    """The run's folder or its event log was deleted while the run was active."""


class EventWriter:
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

    def close(self) -> None:
        self._journal.close()


class EventReader:
    """Read a run's events. Each :meth:`read` returns the new ones, oldest first. Lines that are not valid events are skipped."""

    def __init__(self, folder: Path) -> None:
        self._tail = Tail(folder / FILE)

    def read(self) -> list[Event]:
        return cast(list[Event], [record for record in self._tail.read() if _is_event(record)])


def read_all(folder: Path) -> list[Event]:
    """Return all complete events of a run, oldest first."""
    return EventReader(folder).read()


def _is_event(record: Mapping[str, Any]) -> bool:
    """Return whether ``record`` has the fields of an event, and of its type if that is known, with values of the right types."""
    if not _has_fields(record, _BASE_KEYS, _BASE_KEYS) or not 0 <= record["t"] < _MAX_TIME:
        return False
    types, required = _fields().get(record["type"], (_BASE_KEYS, ()))
    return _has_fields(record, types, required)


def _has_fields(record: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], required: Iterable[str]) -> bool:
    return all(key in record for key in required) and all(
        isinstance(record[key], allowed) for key, allowed in types.items() if key in record
    )


@cache
def _fields() -> dict[str, tuple[dict[str, tuple[type, ...]], frozenset[str]]]:
    """Return the types of each event type's fields, and which of them are required, from the classes above."""
    result: dict[str, tuple[dict[str, tuple[type, ...]], frozenset[str]]] = {}
    for one in get_args(Event):
        hints = get_type_hints(one, include_extras=True)
        required = frozenset(key for key, hint in hints.items() if get_origin(hint) is not NotRequired)
        types = {key: _runtime_types(hint) for key, hint in hints.items()}
        result |= dict.fromkeys(get_args(hints["type"]), (types, required))
    return result


def _runtime_types(hint: Any) -> tuple[type, ...]:
    """Return the types of the JSON values that a field's type hint allows."""
    if get_origin(hint) in (Union, UnionType, NotRequired):
        return tuple(one for part in get_args(hint) for one in _runtime_types(part))
    if get_origin(hint) is Literal:
        return (str,)
    plain = get_origin(hint) or hint
    return {float: (int, float), tuple: (list,)}.get(plain, (plain,))
