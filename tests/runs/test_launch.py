"""Launching, with the real life of a worker around work that trains nothing."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from mlxtune.core.errors import InputError, MachineError
from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.locks import is_held, lease, lease_path

pytestmark = pytest.mark.usefixtures("fake_worker")


def _ended(run: registry.Run) -> registry.RunState:
    """The state after the worker let go of its lock."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        state = run.state()
        if state.ended and not is_held(run.lock):
            return state
        time.sleep(0.01)
    raise AssertionError(f"{run.id} did not end: {run.log_tail()}")


def test_run_is_launched_detached_and_finishes(tmp_path, recipe):
    run = launch.start(tmp_path, "train", recipe, {"how": "finish"})
    assert events.read_all(run.folder)[0]["type"] == "run.started"
    state = _ended(run)
    assert (state.phase, state.summary, state.name) == ("finished", (("steps", 3),), "shop")
    assert run.status() == "finished"
    record = json.loads((run.folder / launch.RECORD).read_text())
    assert (record["kind"], record["request"], record["pid"]) == ("train", {"how": "finish"}, state.pid)
    assert launch.request(run.folder) == {"how": "finish"}
    assert load(run.folder / "recipe.toml").source == recipe.source
    with pytest.raises(InputError, match="has finished"):
        launch.resume(run)


def test_worker_has_its_own_session_stops_on_term_and_can_be_resumed(tmp_path, recipe):
    run = launch.start(tmp_path, "train", recipe, {"how": "wait"})
    state = run.state()
    assert os.getsid(state.pid) == state.pid != os.getsid(0)
    assert run.status() == "running"
    with pytest.raises(InputError, match="is running already"):
        launch.resume(run)
    os.kill(state.pid, signal.SIGHUP)  # the terminal was closed: no reason to stop
    registry.stop(run)
    assert _ended(run).phase == "stopped"
    assert events.read_all(run.folder)[-1]["step"] == 5
    launch.resume(run)
    registry.stop(run)
    _ended(run)
    assert [event["seq"] for event in events.read_all(run.folder)] == list(range(len(events.read_all(run.folder))))


def test_killed_worker_is_seen_as_crashed(tmp_path, recipe):
    run = launch.start(tmp_path, "train", recipe, {"how": "wait"})
    pid = run.state().pid
    os.kill(pid, signal.SIGKILL)
    give_up = time.monotonic() + 10
    while is_held(run.lock) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert run.status() == "crashed"
    assert not is_held(lease_path())


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [("bad data", 2, "line 3 is bad."), ("fault", 4, "RuntimeError: oops"), ("memory", 4, "ran out of memory")],
)
def test_failure_is_the_last_word_with_its_code(tmp_path, recipe, how, code, words):
    run = launch.start(tmp_path, "train", recipe, {"how": how})
    state = _ended(run)
    assert (state.phase, state.code) == ("failed", code)
    assert words in state.error
    assert state.mend
    assert ("Traceback" in run.log.read_text()) == (how == "fault")


def test_worker_that_says_nothing_is_a_machine_error_with_the_end_of_its_log(tmp_path, recipe):
    with pytest.raises(MachineError, match="ended before it said a word: nothing to say") as caught:
        launch.start(tmp_path, "train", recipe, {"how": "silent"})
    assert "worker.log" in caught.value.mend


def test_worker_without_a_word_in_time_is_a_machine_error(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(launch, "PATIENCE", 0.0)
    with pytest.raises(MachineError, match="said nothing for 0 s"):
        launch.start(tmp_path, "train", recipe, {"how": "finish"})


def test_accelerator_in_use_is_said_and_not_waited_for_long(tmp_path, recipe):
    with (
        lease("the run other-run in /shop"),
        pytest.raises(MachineError, match=r"in use by the run other-run in /shop \(process \d+\)"),
    ):
        launch.start(tmp_path, "train", recipe, {"how": "finish"})
    assert not (tmp_path / "runs").exists(), "no run is left behind"
