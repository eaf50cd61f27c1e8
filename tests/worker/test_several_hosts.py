"""Real runs on two local hosts: single-host losses, one event log, and a final checkpoint after any failure."""

import os
import re
import signal
from pathlib import Path

import pytest
from exhaustive import cases
from in_process_workers import run_workers_here
from waiting import finish, kill_worker, wait_for_state, wait_until

from mlxtune.core.hashing import sha256_file
from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.locks import is_locked
from mlxtune.runs.registry import Run

pytestmark = pytest.mark.slow

LONG = ("training.steps=20000", "training.save_every=20000", "training.validate_every=20000")


def start(workspace: Path, *overrides: str, hosts: int = 2) -> Run:
    recipe = load(workspace / "recipes" / "tiny.toml", overrides)
    return launch.start(workspace, "train", recipe, {"hosts": hosts} if hosts > 1 else {})


def peer_of(run: Run) -> int:
    """Return the process id that the second host printed at startup."""
    pids = re.findall(r"process (\d+)", (run.folder / "worker-1.log").read_text())
    return int(pids[-1])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(run: Run, peer: int) -> None:
    wait_until(lambda: not is_locked(run.lock) and not alive(peer), run)


def resume(run: Run) -> None:
    """Resume the run after its last worker exited and wait until the log confirms it."""
    wait_until_gone(run, peer_of(run))
    launch.resume(run)
    wait_until(lambda: run.state().phase in ("running", "finished"), run)


@pytest.mark.parametrize("rows", cases([4, 1], "4"))
def test_two_hosts_match_single_host_losses_in_one_event_log(workspace, rows, monkeypatch):
    overrides = (f"training.batch_size={rows}", "training.accumulate=2", "training.steps=8", "training.schedule=constant")
    runs = []
    for hosts in (1, 2):
        with monkeypatch.context() as patch:
            if hosts == 1:
                run_workers_here(patch)
            run = start(workspace, *overrides, hosts=hosts)
        runs.append(finish(run))
    one, two = (run.state() for run in runs)
    assert len(two.steps) == 8
    assert [step.loss for step in two.steps] == pytest.approx([step.loss for step in one.steps], abs=1e-5)
    assert [item.loss for item in two.validations] == pytest.approx([item.loss for item in one.validations], abs=1e-5)
    step_events = [[event for event in events.read_all(run.folder) if event["type"] == "step"] for run in runs]
    assert [event["tokens"] for event in step_events[0]] == [event["tokens"] for event in step_events[1]]
    assert_only_leader_wrote(runs[1])


def assert_only_leader_wrote(run: Run) -> None:
    records = events.read_all(run.folder)
    assert [event["seq"] for event in records] == list(range(len(records)))
    assert [event["type"] for event in records].count("data.ready") == 1
    assert (run.adapter / "adapters.safetensors").is_file()
    wait_until_gone(run, peer_of(run))


@pytest.mark.exhaustive
def test_stop_ends_all_hosts_at_same_step_and_resume_restarts_them(workspace):
    run = start(workspace, *LONG)
    wait_for_state(run, lambda state: state.step >= 3)
    registry.stop(run)
    wait_for_state(run, lambda state: state.phase == "stopped")
    stopped = run.state()
    assert stopped.checkpoints[-1] == stopped.step
    assert not stopped.error
    resume(run)
    wait_for_state(run, lambda state: state.step >= stopped.step + 3)
    os.kill(peer_of(run), signal.SIGTERM)  # a stop request received by the other host counts as well
    wait_for_state(run, lambda state: state.phase == "stopped")
    state = run.state()
    assert [step.step for step in state.steps] == list(range(1, state.step + 1))
    assert state.checkpoints[-1] == state.step


@pytest.mark.exhaustive
def test_killed_peer_stops_run_with_checkpoint(workspace):
    run = start(workspace, *LONG)
    wait_for_state(run, lambda state: state.step >= 3)
    os.kill(peer_of(run), signal.SIGKILL)
    wait_for_state(run, lambda state: state.phase == "stopped")
    state = run.state()
    assert state.checkpoints[-1] == state.step
    assert "Host 1 (127.0.0.1) was killed by signal 9" in state.error
    resume(run)
    wait_for_state(run, lambda now: now.step > state.step)
    registry.stop(run)
    wait_for_state(run, lambda state: state.phase == "stopped")


@pytest.mark.exhaustive
def test_peer_does_not_outlive_leader(workspace):
    run = start(workspace, *LONG)
    wait_for_state(run, lambda state: state.step >= 3)
    kill_worker(run)
    wait_until_gone(run, peer_of(run))
    assert run.status() == "crashed"


@pytest.mark.exhaustive
def test_stopped_run_matches_uninterrupted_run(workspace):
    overrides = ("training.steps=60", "training.save_every=100", "training.validate_every=100")
    whole = start(workspace, *overrides)
    wait_for_state(whole, lambda state: state.ended)
    parted = start(workspace, *overrides)
    wait_for_state(parted, lambda state: state.step >= 3)
    registry.stop(parted)
    wait_for_state(parted, lambda state: state.ended)
    if parted.state().phase == "stopped":
        resume(parted)
        wait_for_state(parted, lambda state: state.ended)
    assert parted.state().phase == whole.state().phase == "finished"
    weights = [sha256_file(run.adapter / "adapters.safetensors") for run in (whole, parted)]
    assert weights[0] == weights[1]


def train_over_ssh(workspace: Path, monkeypatch: pytest.MonkeyPatch, ssh: str, *hosts: str) -> Run:
    """Train to the end on ``hosts``, with the script ``ssh`` as the program of that name."""
    away = workspace / "bin"
    away.mkdir()
    (away / "ssh").write_text(f"#!/bin/sh\n{ssh}\n")
    (away / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{away}:{os.environ['PATH']}")
    recipe = load(workspace / "recipes" / "tiny.toml", ("training.steps=4",))
    places = [{"ssh": host, "ips": ["127.0.0.1"]} for host in hosts]
    run = launch.start(workspace, "train", recipe, {"hosts": places, "backend": "ring", "envs": []})
    wait_for_state(run, lambda state: state.ended)
    return run


def test_unusable_host_is_named_before_first_step(workspace, monkeypatch):
    run = train_over_ssh(workspace, monkeypatch, "echo 'no route to elsewhere'\nexit 255", "127.0.0.1", "elsewhere")
    assert run.state().phase == "failed"
    assert "Host 1 (elsewhere) ended with code 255: no route to elsewhere" in run.state().error


@pytest.mark.exhaustive
def test_host_over_ssh_joins_training(workspace, monkeypatch):
    without_network = 'for last; do :; done\nexec sh -c "$last"'  # runs the last argument and passes the pipes through
    run = train_over_ssh(workspace, monkeypatch, without_network, "here", "there")
    finish(run)
    assert "train " in (run.folder / "worker-1.log").read_text()
