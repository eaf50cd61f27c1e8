"""Log the metrics of runs, live or afterwards: to CSV, TensorBoard, or a tracker."""

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import write_text
from mlxtune.core.text import suggest
from mlxtune.runs.events import Event


@dataclass(frozen=True)
class MetricRow:
    """The metrics of a run at a step, at the time ``t`` in seconds since the epoch."""

    run: str
    step: int
    t: float
    values: Mapping[str, float]


def metric_rows(run: str, events: list[Event]) -> Iterator[MetricRow]:
    """Yield the metrics in ``events``. Values that are not finite are omitted."""
    for event in events:
        match event["type"]:
            case "step":
                values = {
                    "loss": event["loss"], "learning_rate": event["rate"], "tokens_per_second": event["speed"],
                    "norm": event.get("norm"),
                }  # fmt: skip
                yield _row(run, "train", event["step"], event["t"], values | dict(event.get("metrics", {})))
            case "validation":
                yield _row(run, "validation", event["step"], event["t"], {"loss": event["loss"], **event.get("metrics", {})})


def _row(run: str, group: str, step: int, t: float, values: Mapping[str, float | None]) -> MetricRow:
    known = {f"{group}/{name}": value for name, value in values.items() if value is not None and math.isfinite(value)}
    return MetricRow(run, step, t, known)


@dataclass
class CsvSink:
    """Writes a table with a row per run and step, and a column per metric. The file appears when the sink is closed."""

    file: Path
    _rows: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)

    def log(self, row: MetricRow) -> None:
        self._rows.setdefault((row.run, row.step), {}).update(row.values)

    def close(self) -> None:
        names = list(dict.fromkeys(name for values in self._rows.values() for name in values))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["run", "step", *names])
        for (run, step), values in self._rows.items():
            writer.writerow([run, step, *(values.get(name, "") for name in names)])
        write_text(self.file, text.getvalue())


class TensorBoardSink:
    """Writes event files for TensorBoard, in a folder per run. Raise ``InputError`` if tensorboardX is not installed."""

    def __init__(self, folder: Path) -> None:
        writer = _import("TensorBoard", "tensorboardX").SummaryWriter
        self._create: Any = lambda run: writer(str(folder / run))
        self._writers: dict[str, Any] = {}

    def log(self, row: MetricRow) -> None:
        if row.run not in self._writers:
            self._writers[row.run] = self._create(row.run)
        for name, value in row.values.items():
            self._writers[row.run].add_scalar(name, value, row.step, walltime=row.t)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


TRACKERS = {"trackio": "Trackio", "wandb": "Weights & Biases", "swanlab": "SwanLab"}  # the package of each, and its title
KEYS = {"wandb": "WANDB_API_KEY", "swanlab": "SWANLAB_API_KEY"}  # environment variables with which metrics can be sent to a server
FORMATS = ("csv", "tensorboard", *TRACKERS)


class TrackerSink:
    """Logs to a project of a tracker, one of its runs at a time: to local files in ``folder``, or to its server with ``online``.

    With ``live``, a run that the tracker or its server already has goes on; otherwise, the tracker gets a new one.
    Raise ``InputError`` if its package is not installed, or if it has no server or the user has not set its key.
    """

    def __init__(self, package: str, project: str, folder: Path, *, online: bool = False, live: bool = False) -> None:
        title, key = TRACKERS[package], KEYS.get(package)
        if online and not key:
            raise InputError(f"--online cannot be used with {title}, which has no server.", hint="Remove --online.")
        if online and not os.environ.get(str(key)):
            raise InputError(f"Logging to {title}'s server needs your key.", hint=f"Set {key}, or remove --online.")
        self._module, self._run = _import(title, package), ""
        self._settings: dict[str, Any] = {"project": project}
        if package == "wandb":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            quiet = self._module.Settings(console="off", disable_git=True, save_code=False, x_disable_stats=True, silent=True)
            self._settings |= {"dir": str(folder), "settings": quiet}
        elif package == "swanlab":
            self._settings["log_dir"] = str(folder / "swanlog")
        self._settings |= {"mode": "online" if online else "offline"} if key else {"embed": False}
        self._settings |= {"resume": "allow"} if live and (online or not key) else {}
        self._names = ("name", "id") if live and online else ("name",)  # Trackio identifies runs by their names

    def log(self, row: MetricRow) -> None:
        if row.run != self._run:
            self.close()
            self._module.init(**dict.fromkeys(self._names, row.run), **self._settings)
            self._run = row.run
        self._module.log(dict(row.values), step=row.step)

    def close(self) -> None:
        if self._run:
            self._module.finish()
        self._run = ""


# Receives the metrics of one or several runs, in the order of their steps.
Sink = CsvSink | TensorBoardSink | TrackerSink


def open_sink(form: str, run: str, project: str, output: Path | None = None, *, online: bool = False, live: bool = False) -> Sink:
    """Return the sink of ``form``, one of ``FORMATS``, for a run of a project. Raise ``InputError`` if it cannot be used."""
    if form not in FORMATS:
        raise InputError(f"Unknown format: {form}.", hint=suggest(form, FORMATS, "Use one of:"))
    if form in TRACKERS:
        return TrackerSink(form, project, output or Path(), online=online, live=live)
    if online:
        raise InputError(f"--online cannot be used with {form}.", hint="Remove --online.")
    return CsvSink(output or Path(f"{run}.csv")) if form == "csv" else TensorBoardSink(output or Path("tensorboard"))


def _import(title: str, package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise InputError(f"{title} needs the package {package}.", hint=f"Install it: pip install {package}") from error
