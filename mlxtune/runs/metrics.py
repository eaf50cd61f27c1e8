"""Export the metrics of runs: to CSV, or to TensorBoard or Trackio, which the extra ``track`` installs."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import write_text
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
                    "loss": event["loss"],
                    "learning_rate": event["rate"],
                    "tokens_per_second": event["speed"],
                    "norm": event.get("norm"),
                }
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
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise _missing("TensorBoard", "tensorboardX") from error
        self._create: Any = lambda run: SummaryWriter(str(folder / run))
        self._writers: dict[str, Any] = {}

    def log(self, row: MetricRow) -> None:
        if row.run not in self._writers:
            self._writers[row.run] = self._create(row.run)
        for name, value in row.values.items():
            self._writers[row.run].add_scalar(name, value, row.step, walltime=row.t)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class TrackioSink:
    """Logs to a local Trackio project, one of its runs at a time. Raise ``InputError`` if trackio is not installed."""

    def __init__(self, project: str) -> None:
        try:
            import trackio
        except ImportError as error:
            raise _missing("Trackio", "trackio") from error
        self._trackio: Any = trackio
        self._project, self._run = project, ""

    def log(self, row: MetricRow) -> None:
        if row.run != self._run:
            self.close()
            self._trackio.init(project=self._project, name=row.run, embed=False)
            self._run = row.run
        self._trackio.log(dict(row.values), step=row.step)

    def close(self) -> None:
        if self._run:
            self._trackio.finish()
        self._run = ""


# Receives the metrics of one or several runs, in the order of their steps.
MetricSink = CsvSink | TensorBoardSink | TrackioSink


def _missing(title: str, package: str) -> InputError:
    return InputError(f"{title} needs the package {package}.", hint="Install it: pip install 'mlxtune[track]'")
