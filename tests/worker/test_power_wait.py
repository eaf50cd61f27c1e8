"""A run with ``training.wait_for`` waits while the machine runs on its battery or is too hot, and can be stopped meanwhile."""

import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from waiting import wait_until

from mlxtune.planning import machine
from mlxtune.planning.machine import PowerState
from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.registry import Run
from mlxtune.training import power_wait
from mlxtune.training.power_wait import PowerWait

pytestmark = pytest.mark.slow

BATTERY_WORKER = """
import sys
from pathlib import Path
from mlxtune.planning import machine
from mlxtune.training import power_wait, worker

power_wait.INTERVAL, power_wait.POLL = 0.0, 0.01
machine.power = lambda: machine.PowerState(on_battery=Path(sys.argv[1]).parents[1].joinpath("unplugged").exists())
sys.exit(worker.main())
"""


@pytest.fixture
def unplugged(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists while the worker's machine runs on its battery."""
    (workspace / "battery_worker.py").write_text(BATTERY_WORKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(workspace), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(registry.RUN_KINDS, "train", replace(registry.RUN_KINDS["train"], module="battery_worker"))
    file = workspace / "unplugged"
    file.touch()
    return file


def kinds(run: Run) -> list[str]:
    """Return the types of the run's events. On a busy machine, a heartbeat may be anywhere."""
    return [event["type"] for event in events.read_all(run.folder) if event["type"] != "heartbeat"]


def test_a_run_waits_before_it_loads_the_model_and_between_steps(workspace, unplugged):
    run = launch.start(
        workspace, "train", load(workspace / "recipes" / "tiny.toml", ('training.wait_for="power"', "training.steps=20000"))
    )
    wait_until(lambda: run.status() == "waiting", run)
    assert kinds(run)[:2] == ["run.started", "run.waiting"]
    assert "model.loaded" not in kinds(run)
    unplugged.unlink()
    wait_until(lambda: run.state().step >= 2, run)
    assert run.status() == "running"
    unplugged.touch()
    wait_until(lambda: run.status() == "waiting", run)
    step = run.state().step
    registry.stop(run)
    wait_until(lambda: run.status() == "stopped", run)
    assert run.state().checkpoints[-1] == run.state().step <= step + 1


class Listener:
    """Collects the events of a wait, and asks it to stop after ``patience`` checks of ``stopping``."""

    def __init__(self, patience: int = 1000) -> None:
        self.emitted: list[str] = []
        self._patience = patience

    @property
    def stopping(self) -> bool:
        self._patience -= 1
        return self._patience < 0

    def emit(self, kind: str, **fields: str) -> None:
        self.emitted.append(" ".join([kind, *fields.values()]))


@pytest.mark.parametrize(
    ("wait_for", "states", "emitted"),
    [
        ("cool", ["nominal"], []),
        ("cool", ["moderate"], []),
        ("cool", ["heavy", "heavy", "moderate", "nominal"], ["run.waiting heat", "run.continued"]),
        ("power", ["heavy"], []),
        ("", ["battery"], []),
        ("both", ["battery", "heavy", "moderate", "nominal"], ["run.waiting power", "run.waiting heat", "run.continued"]),
    ],
)
def test_heat_pauses_a_run_until_the_pressure_is_nominal(monkeypatch, wait_for, states, emitted):
    known = {"battery": PowerState(on_battery=True)} | {
        level: PowerState(thermal=level) for level in get_args(machine.ThermalPressure)
    }
    remaining = iter([known[name] for name in states])
    monkeypatch.setattr(machine, "power", lambda: next(remaining))
    monkeypatch.setattr(power_wait, "POLL", 0.0)
    listener = Listener()
    wait = PowerWait(wait_for, listener)  # type: ignore[arg-type]
    wait()
    assert listener.emitted == emitted
    assert bool(wait.waited) == bool(emitted)
    assert wait_for in ("", "power") or next(remaining, None) is None


def test_a_run_that_is_too_hot_can_be_stopped(monkeypatch):
    monkeypatch.setattr(machine, "power", lambda: PowerState(thermal="heavy"))
    monkeypatch.setattr(power_wait, "POLL", 0.0)
    listener = Listener(patience=3)
    PowerWait("cool", listener)()  # type: ignore[arg-type]
    assert listener.emitted == ["run.waiting heat", "run.continued"]
