"""A run with ``training.wait_for = "power"`` waits while the machine runs on its battery, and can be stopped meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.registry import Run

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
def unplugged(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that exists while the worker's machine runs on its battery."""
    (workspace / "battery_worker.py").write_text(BATTERY_WORKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(workspace), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(registry.RUN_KINDS, "train", replace(registry.RUN_KINDS["train"], module="battery_worker"))
    file = workspace / "unplugged"
    file.touch()
    yield file
    for run in registry.list_runs(workspace):
        if run.status() in ("running", "waiting"):
            os.kill(run.state().pid, 9)


def wait_until(run: Run, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, (run.state(), run.log_tail(20))
        time.sleep(0.02)


def kinds(run: Run) -> list[str]:
    """Return the types of the run's events. On a busy machine, a heartbeat may be anywhere."""
    return [event["type"] for event in events.read_all(run.folder) if event["type"] != "heartbeat"]


def test_a_run_waits_before_it_loads_the_model_and_between_steps(workspace: Path, unplugged: Path) -> None:
    run = launch.start(
        workspace, "train", load(workspace / "recipes" / "tiny.toml", ('training.wait_for="power"', "training.steps=100000"))
    )
    wait_until(run, lambda: run.status() == "waiting")
    assert kinds(run)[:2] == ["run.started", "run.waiting"]
    assert "model.loaded" not in kinds(run)
    unplugged.unlink()
    wait_until(run, lambda: run.state().step >= 2)
    assert run.status() == "running"
    unplugged.touch()
    wait_until(run, lambda: run.status() == "waiting")
    step = run.state().step
    registry.stop(run)
    wait_until(run, lambda: run.status() == "stopped")
    assert run.state().checkpoints[-1] == run.state().step <= step + 1


def test_a_run_that_does_not_wait_for_power_starts_on_its_battery(workspace: Path, unplugged: Path) -> None:
    run = launch.start(workspace, "train", load(workspace / "recipes" / "tiny.toml", ("training.steps=1",)))
    wait_until(run, lambda: run.state().ended)
    assert run.state().phase == "finished"
    assert "run.waiting" not in kinds(run)
