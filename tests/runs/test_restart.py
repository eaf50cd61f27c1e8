"""Workers that meet GPU errors: named in plain words, resumed once with smaller commands, and then failed with a hint."""

import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from waiting import PATIENCE, wait_until

from mlxtune.core import settings
from mlxtune.core.gpu_errors import RELAXED_WATCHDOG, SMALLER_COMMANDS
from mlxtune.recipe import Recipe
from mlxtune.runs import events, launch, registry
from mlxtune.runs.locks import accelerator_lock, file_lock, is_locked
from mlxtune.runs.registry import STARTING_FOR, Run
from mlxtune.runs.state import RunState, RunWarning

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fake_worker")]

INTERACTIVITY = (
    "[METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)."
)
TIMEOUT = "[METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)."


def wait_for_end(run: Run) -> events.Event:
    """Return the terminal event. Until then, the run is always alive."""
    deadline = time.monotonic() + PATIENCE
    while not (state := run.state()).ended:
        assert run.status(state) in ("starting", "running") or run.state().ended, (state, run.log_tail())
        assert time.monotonic() < deadline, run.log_tail()
        time.sleep(0.005)
    return events.read_all(run.folder)[-1]


def kinds(run: Run) -> list[str]:
    return [event["type"] for event in events.read_all(run.folder) if event["type"] != "heartbeat"]


def test_a_run_is_resumed_once_in_a_new_process_with_the_same_pid(tmp_path: Path, recipe: Recipe) -> None:
    request = {"behavior": "gpu error", "messages": [INTERACTIVITY], "names": list(SMALLER_COMMANDS)}
    run = launch.start(tmp_path, "train", recipe, request)
    assert wait_for_end(run)["summary"] == {name: str(value) for name, value in SMALLER_COMMANDS.items()}
    assert kinds(run) == ["run.started", "run.restarting", "run.started", "run.finished"]
    started, restarting, again, _ = (event for event in events.read_all(run.folder) if event["type"] != "heartbeat")
    assert started["pid"] == again["pid"]
    assert restarting["error"] == "macOS stopped the GPU work because the display needed the GPU."
    assert run.state().warnings == [RunWarning("gpu_restart", {"error": restarting["error"]})]
    assert INTERACTIVITY in run.log.read_text()


def test_a_second_gpu_error_fails_the_run(tmp_path: Path, recipe: Recipe) -> None:
    run = launch.start(tmp_path, "train", recipe, {"behavior": "gpu error", "messages": [INTERACTIVITY, TIMEOUT]})
    failed = wait_for_end(run)
    assert kinds(run) == ["run.started", "run.restarting", "run.started", "run.failed"]
    assert failed["error"] == "macOS stopped the GPU work because one command took too long."
    assert "Let the display sleep" in failed["hint"]
    assert failed["code"] == 4


@pytest.mark.parametrize("relaxed", [True, False])
def test_workers_relax_the_watchdog_unless_a_setting_forbids_it(tmp_path: Path, recipe: Recipe, relaxed: bool) -> None:
    settings.path().parent.mkdir(parents=True, exist_ok=True)
    settings.path().write_text(f"relax_gpu_watchdog = {str(relaxed).lower()}\n")
    run = launch.start(tmp_path, "train", recipe, {"behavior": "finish", "names": [RELAXED_WATCHDOG]})
    assert wait_for_end(run)["summary"] == {RELAXED_WATCHDOG: "1" if relaxed else None}


def test_a_restart_that_never_comes_is_a_crash(make_run) -> None:
    run = make_run("20261124-1412-shop", ("run.restarting", {"error": "The GPU ran out of memory.", "hint": ""}))
    assert run.status() == "starting"
    assert run.status(now=time.time() + STARTING_FOR + 1) == "crashed"


def test_a_run_that_restarts_while_its_status_is_read_has_not_crashed(make_run) -> None:
    run = make_run("20261124-1412-shop", ("run.restarting", {"error": "The GPU ran out of memory.", "hint": ""}))
    with ExitStack() as worker:

        def read() -> RunState:
            worker.enter_context(file_lock(run.lock, busy="It has a worker."))
            return RunState(phase="running", pid=os.getpid(), updated=time.time())

        assert run.status(read=read) == "running"


def test_the_mac_stays_awake_until_the_worker_ends(tmp_path: Path, recipe: Recipe) -> None:
    """A script stands in for macOS's ``caffeinate``."""
    script = tmp_path / "caffeinate"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexec sleep 600\n')
    script.chmod(0o755)
    run = launch.start(tmp_path, "train", recipe, {"behavior": "wait", "caffeinate": str(script)})
    wait_until(lambda: "sleep.prevented" in kinds(run) and (tmp_path / "arguments").is_file())
    guard = next(event["pid"] for event in events.read_all(run.folder) if event["type"] == "sleep.prevented")
    assert (tmp_path / "arguments").read_text().split() == ["-i", "-w", str(run.state().pid)]
    os.kill(guard, 0)
    registry.stop(run)
    assert wait_for_end(run)["type"] == "run.stopped"
    wait_until(lambda: not _exists(guard))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_busy_machine_is_named_as_the_reason_for_a_slow_run(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    run = launch.start(tmp_path, "train", recipe, {"behavior": "busy machine", "heartbeat": 0.05})
    assert wait_for_end(run)["type"] == "run.finished"
    (warning,) = run.state().warnings
    assert (warning.code, warning.values) == ("busy_machine", {"load": 999, "cores": os.cpu_count()})


@pytest.mark.parametrize("behavior", ["wait", "busy"])
def test_a_worker_ends_when_its_run_is_deleted(tmp_path: Path, recipe: Recipe, behavior: str) -> None:
    run = launch.start(tmp_path, "train", recipe, {"behavior": behavior, "heartbeat": 0.05})
    pid = run.state().pid
    shutil.rmtree(run.folder)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 4
    assert not run.folder.exists()
    assert not is_locked(accelerator_lock())
