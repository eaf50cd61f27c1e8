"""Runs are started, resumed, and stopped the same way from every interface."""

from types import SimpleNamespace
from typing import cast

import pytest

from mlxtune.core.errors import MachineError
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState
from mlxtune.workspace import control
from mlxtune.workspace.control import StopEffect, stop_effect


@pytest.mark.parametrize(
    ("kind", "step", "effect"),
    [
        ("train", None, StopEffect.NOTHING),
        ("train", 0, StopEffect.FIRST_STEP),
        ("train", 3, StopEffect.CHECKPOINT),
        ("search", 0, StopEffect.TRIAL_CHECKPOINT),
        ("eval", 0, StopEffect.ANSWERS),
        ("export", 0, StopEffect.NOTHING),
        ("generate", 0, StopEffect.NOTHING),
    ],
)
def test_what_a_stopped_run_keeps_depends_on_its_kind(kind, step, effect):
    assert stop_effect(kind, cast(RunState, SimpleNamespace(step=step or 0, total=0 if step is None else 9))) == effect


def test_waiting_for_a_run_tells_once_that_it_takes_long_and_gives_up(tmp_path, monkeypatch):
    told: list[bool] = []
    monkeypatch.setattr(Run, "status", lambda run: "running")
    monkeypatch.setattr(control, "STOP_PATIENCE", 0.0)
    monkeypatch.setattr(control, "STOP_LIMIT", 0.3)
    with pytest.raises(MachineError) as raised:
        control.wait_until_stopped(Run(tmp_path), lambda: told.append(True))
    assert "kill -9" in raised.value.hint
    assert told == [True]


def test_waiting_for_a_run_that_has_stopped_returns_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "status", lambda run: "stopped")
    control.wait_until_stopped(Run(tmp_path), lambda: pytest.fail("told"))
