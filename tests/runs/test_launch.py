"""Launching runs with a real worker process that does not train."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import kill_worker, wait_until

from mlxtune.core.errors import InputError, MachineError, RecipeError
from mlxtune.recipe import load, read_template
from mlxtune.runs import events, launch, registry
from mlxtune.runs.locks import accelerator_lease, accelerator_lock, is_locked

pytestmark = pytest.mark.usefixtures("fake_worker")


def _wait_for_end(run: registry.Run) -> registry.RunState:
    """Return the state once the worker has released its lock."""
    wait_until(lambda: run.state().ended and not is_locked(run.lock), run)
    return run.state()


def test_a_run_is_launched_detached_and_finishes(tmp_path, recipe):
    run = launch.start(tmp_path, "train", recipe, {"behavior": "finish"})
    assert events.read_all(run.folder)[0]["type"] == "run.started"
    state = _wait_for_end(run)
    assert (state.phase, state.summary, state.name) == ("finished", {"steps": 3}, "shop")
    assert run.status() == "finished"
    record = json.loads((run.folder / registry.LAUNCH_FILE).read_text())
    assert (record["kind"], record["request"], record["pid"]) == ("train", {"behavior": "finish"}, state.pid)
    assert launch.read_request(run.folder) == {"behavior": "finish"}
    assert load(run.folder / "recipe.toml").source == recipe.source
    with pytest.raises(InputError, match="has already finished"):
        launch.resume(run)


def test_a_run_keeps_its_date_and_its_chat_template(tmp_path, recipe, monkeypatch):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages }}")
    recipe = replace(recipe, folder=tmp_path, model=replace(recipe.model, template="mine.jinja"))
    monkeypatch.setattr(launch.time, "strftime", lambda format: "2026-11-26")
    run = launch.start(tmp_path, "train", recipe)
    _wait_for_end(run)
    file.write_text("changed")
    assert (run.recipe().data.date, read_template(run.recipe())) == ("2026-11-26", "{{ messages }}")
    dated = replace(recipe, data=replace(recipe.data, date="2024-02-29"))
    assert launch.start(tmp_path, "train", dated).recipe().data.date == "2024-02-29"
    file.unlink()
    before = len(registry.list_runs(tmp_path))
    with pytest.raises(RecipeError, match="Cannot read the chat template"):
        launch.start(tmp_path, "train", recipe)
    assert len(registry.list_runs(tmp_path)) == before


def test_a_worker_has_its_own_session_stops_on_sigterm_resumes_and_is_crashed_when_killed(tmp_path, recipe):
    run = launch.start(tmp_path, "train", recipe, {"behavior": "wait"})
    state = run.state()
    assert os.getsid(state.pid) == state.pid != os.getsid(0)
    assert run.status() == "running"
    with pytest.raises(InputError, match="is already running"):
        launch.resume(run)
    os.kill(state.pid, signal.SIGHUP)  # a closed terminal does not stop it
    registry.stop(run)
    assert _wait_for_end(run).phase == "stopped"
    assert events.read_all(run.folder)[-1]["step"] == 5
    launch.resume(run)
    kill_worker(run)
    assert run.status() == "crashed"
    assert not is_locked(accelerator_lock())
    assert [event["seq"] for event in events.read_all(run.folder)] == list(range(len(events.read_all(run.folder))))


@pytest.mark.parametrize(
    ("behavior", "code", "words"),
    [("bad data", 2, "line 3 is bad."), ("fault", 4, "RuntimeError: oops"), ("memory", 4, "Out of memory")],
)
def test_a_failure_is_the_last_event_with_its_code(tmp_path, recipe, behavior, code, words):
    run = launch.start(tmp_path, "train", recipe, {"behavior": behavior})
    state = _wait_for_end(run)
    assert (state.phase, state.code) == ("failed", code)
    assert words in state.error
    assert state.hint
    assert ("Traceback" in run.log.read_text()) == (behavior == "fault")


def test_a_worker_without_events_is_a_machine_error(tmp_path, recipe, monkeypatch):
    with pytest.raises(MachineError, match="exited before its first event: no events") as caught:
        launch.start(tmp_path, "train", recipe, {"behavior": "silent"})
    assert "worker.log" in caught.value.hint
    monkeypatch.setattr(launch, "START_TIMEOUT", 0.0)
    with pytest.raises(MachineError, match="wrote no event within 0 s"):
        launch.start(tmp_path, "train", recipe, {"behavior": "finish"})


def test_ctrl_c_while_a_worker_starts_names_its_run(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(launch, "start_detached", lambda *_: SimpleNamespace(pid=1, poll=lambda: None))
    monkeypatch.setattr(launch, "_wait_for_first_event", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(launch.DetachedEarly) as caught:
        launch.start(tmp_path, "train", recipe)
    assert caught.value.run == registry.find_run(tmp_path, "last")


def test_an_accelerator_in_use_is_a_machine_error(tmp_path, recipe):
    with (
        accelerator_lease("train", Path("/shop"), "other-run"),
        pytest.raises(MachineError, match=r"in use by the training run other-run in /shop \(process \d+\)"),
    ):
        launch.start(tmp_path, "train", recipe, {"behavior": "finish"})
    assert not (tmp_path / "runs").exists(), "no run is left behind"
