"""SIGKILL or Ctrl-C of ``queue run`` at any moment: it is run again, and every job has run exactly once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from exhaustive import EXHAUSTIVE

from mlxtune.cli import queue as verb
from mlxtune.core.child_process import python_command, python_environment
from mlxtune.runs.locks import is_locked
from mlxtune.runs.queue import COMMAND_LOCK, Queue

SMALL = ("--set", "training.epochs=0", "--set", "training.steps=2", "--set", "evaluation.regression=")
KILLS, JOBS = (20, 3) if EXHAUSTIVE else (2, 1)  # of the queue, while it trains and evaluates so many times


def start(workspace: Path) -> subprocess.Popen[bytes]:
    command, null = python_command("mlxtune", "queue", "run"), subprocess.DEVNULL
    return subprocess.Popen(command, cwd=workspace, env=python_environment(), stdout=null, stderr=null)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_queue_does_no_work_twice(workspace, kind):
    """It is killed after a growing time, so that every part of a job is interrupted."""
    queue = Queue(workspace)
    for _ in range(JOBS):
        queue.add(("train", "recipes/tiny.toml", *SMALL))
    for number in range(KILLS):
        process = start(workspace)
        time.sleep(0.3 + 0.35 * (number % 10))
        process.send_signal(kind)
        process.wait()
    assert start(workspace).wait() == 0
    assert [entry.status for entry in queue.entries()] == ["done"] * JOBS
    assert len(list(workspace.glob("runs/*"))) == len(list(workspace.glob("evals/*/report.json"))) == JOBS
    assert len(list(workspace.glob("evals/2*"))) == JOBS


def test_a_run_is_recorded_before_it_starts(workspace, monkeypatch):
    from mlxtune.recipe import load
    from mlxtune.runs import launch

    queue = Queue(workspace)
    queue.add(("train", "recipes/tiny.toml"))
    monkeypatch.setenv("MLXTUNE_QUEUE_ENTRY", "1")
    seen = []
    monkeypatch.setattr(launch, "start_detached", lambda *_: seen.append(queue.entries()[0].run) or pytest.fail("started"))
    with pytest.raises(pytest.fail.Exception):
        launch.start(workspace, "train", load(workspace / "recipes/tiny.toml"))
    assert [Path(run).parent for run in seen] == [workspace / "runs"]


def test_a_restarted_queue_waits_for_the_command_of_the_killed_one(workspace, monkeypatch):
    calls: list[tuple[str, ...]] = []

    def call(*command: str) -> tuple[int, str]:
        assert not is_locked(workspace / COMMAND_LOCK)
        calls.append(command)
        return 0, ""

    monkeypatch.chdir(workspace)
    monkeypatch.setattr(verb, "_call", call)
    monkeypatch.setattr(verb, "POLL", 0.01)
    queue = Queue(workspace)
    queue.start(queue.add(("export", "mlx", "last")))
    script = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, workspace / COMMAND_LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as orphan:
        orphan.stdout.readline()
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            orphan.communicate()

        monkeypatch.setattr(verb.time, "sleep", sleep)
        verb._run_entry(queue, queue.entries()[0])
    assert waits
    assert calls == [("export", "mlx", "last")]
