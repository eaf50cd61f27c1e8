import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from mlxtune.core.errors import InputError
from mlxtune.runs.metrics import KEYS, CsvSink, MetricRow, TensorBoardSink, metric_rows, open_sink

MARGINS = {"rewards/margins": 0.25}
STEP = {"type": "step", "step": 1, "t": 5.0, "loss": 0.5, "rate": 1e-3, "speed": 9.0, "norm": None, "metrics": MARGINS}
VALIDATION = {"type": "validation", "step": 1, "t": 6.0, "loss": float("nan"), "metrics": {"kl": 0.01}}
ROWS = [
    MetricRow("a", 1, 5.0, {"train/loss": 0.5, "train/learning_rate": 1e-3, "train/tokens_per_second": 9.0, "train/rewards/margins": 0.25}),
    MetricRow("a", 1, 6.0, {"validation/kl": 0.01}),
]  # fmt: skip


def test_events_become_rows_without_values_that_are_not_finite() -> None:
    events: Any = [{"type": "heartbeat", "t": 1.0}, STEP, VALIDATION]
    assert list(metric_rows("a", events)) == ROWS


def test_csv(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "metrics.csv")
    for row in [*ROWS, MetricRow("b", 2, 7.0, {"train/loss": 0.25})]:
        sink.log(row)
    sink.close()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["run"], first["step"], first["train/loss"], first["validation/kl"]) == ("a", "1", "0.5", "0.01")
    assert (second["run"], second["step"], second["train/loss"], second["validation/kl"]) == ("b", "2", "0.25", "")


def test_tensorboard_and_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[Any, ...]] = []

    def writer(folder: str) -> SimpleNamespace:
        return SimpleNamespace(
            add_scalar=lambda name, value, step, walltime: logged.append((Path(folder).name, name, value, step)), close=lambda: None
        )

    trackio = SimpleNamespace(
        init=lambda project, name, embed: logged.append((project, name)),
        log=lambda values, step: logged.append((values, step)), finish=lambda: logged.append(("finished",)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=writer))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    for sink in (TensorBoardSink(tmp_path), open_sink("trackio", "", "shop")):
        sink.log(ROWS[1])
        sink.log(MetricRow("b", 2, 7.0, {"train/loss": 0.25}))
        sink.close()
    assert logged == [
        ("a", "validation/kl", 0.01, 1), ("b", "train/loss", 0.25, 2),
        ("shop", "a"), ({"validation/kl": 0.01}, 1), ("finished",), ("shop", "b"), ({"train/loss": 0.25}, 2), ("finished",),
    ]  # fmt: skip


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="TensorBoard needs the package tensorboardX"):
        TensorBoardSink(tmp_path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of each run that a tracker with a server has started."""
    started: list[dict[str, Any]] = []
    module = MagicMock(init=lambda **settings: started.append(settings))
    for name in KEYS:
        monkeypatch.setitem(sys.modules, name, module)
    return started


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("online", [False, True])
def test_only_online_with_a_key_sends_anything(tmp_path, monkeypatch, started, name, online):
    key = KEYS[name]
    monkeypatch.delenv(key, raising=False)
    if online:
        with pytest.raises(InputError, match="needs your key"):
            open_sink(name, "", "shop", tmp_path, online=True)
    monkeypatch.setenv(key, "secret")
    sink = open_sink(name, "", "shop", tmp_path, online=online)
    for row in [*ROWS, MetricRow("b", 2, 7.0, {"train/loss": 0.25})]:
        sink.log(row)
    sink.close()
    assert [(one["project"], one["name"], one["mode"]) for one in started] == [
        ("shop", run, "online" if online else "offline") for run in "ab"
    ]


@pytest.mark.parametrize(("online", "expected"), [(True, {"id": "a", "resume": "allow"}), (False, {})])
def test_a_run_goes_on_where_the_tracker_has_it(tmp_path, monkeypatch, started, online, expected):
    """Offline, each start of Weights & Biases or SwanLab writes a new run, which has only the new steps."""
    for name in KEYS:
        monkeypatch.setenv(KEYS[name], "secret")
        sink = open_sink(name, "", "shop", tmp_path, online=online, live=True)
        sink.log(ROWS[0])
        sink.close()
        assert {key: value for key, value in started.pop().items() if key in ("id", "resume")} == expected


def test_a_tracker_without_a_server_refuses_online():
    for name in ("trackio", "csv"):
        with pytest.raises(InputError, match="--online"):
            open_sink(name, "a", "shop", online=True).close()
