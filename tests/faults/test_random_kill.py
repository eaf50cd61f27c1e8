"""SIGKILL of an export and of a generation at random moments: each is whole or absent, nothing is lost, and nothing is asked twice."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from waiting import PATIENCE, wait_until

from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.start import MODEL
from mlxtune.core.journal import read
from mlxtune.data.generate.worker import CALLS
from mlxtune.runs import events, launch, registry
from mlxtune.runs.registry import Run

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

ROOT = Path(__file__).parents[2]
KILLS = 20
SMALL = ("--set", "evaluation.regression=", "--set", "evaluation.max_tokens=2", "--set", "evaluation.rows=2")


def start(workspace: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a command."""
    command = [sys.executable, "-P", "-m", "mlxtune", *arguments, "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def mlxtune(workspace: Path, *arguments: str) -> str:
    """Run a command, which must succeed, and return the ID of the run that it prints as JSON."""
    command = start(workspace, *arguments)
    output, errors = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, errors.decode()
    return str(json.loads(output)["run"])


def kill_worker(run: Run, seconds: float) -> None:
    """Kill the worker of ``run``, with its children, some ``seconds`` after it has started, and wait until its lock is free."""
    wait_until(lambda: run.state().pid or run.state().ended, interval=0.01)
    time.sleep(seconds)
    if pid := run.state().pid:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: run.status() not in registry.ALIVE)


def weights(run: Run) -> bytes:
    """Return the exported weights."""
    return (run.folder / MODEL / "model.safetensors").read_bytes()


def test_a_killed_export_is_whole_or_absent(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    mlxtune(workspace, "train", "recipes/tiny.toml", "--detach", "--set", "training.epochs=0", "--set", "training.steps=2")
    [trained] = registry.list_runs(workspace)
    wait_until(lambda: trained.state().ended)
    export = ("export", "mlx", "last", "--detach", *SMALL)
    unharmed = registry.find_run(workspace, mlxtune(workspace, *export), "export")
    wait_until(lambda: unharmed.state().ended)
    times = [event["t"] for event in events.read_all(unharmed.folder)]
    chance, killed = random.Random(7), 0
    for _ in range(KILLS):
        command = start(workspace, *export)  # it may return only when the export has ended
        wait_until(lambda: len(registry.list_runs(workspace, "export")) > 1, interval=0.01)
        run = registry.list_runs(workspace, "export")[0]
        kill_worker(run, chance.uniform(0, times[-1] - times[0]))
        command.communicate(timeout=PATIENCE)
        finished = run.status() == "finished"
        killed += not finished
        exports.remove_unfinished(run)
        left = {path.name for path in run.folder.iterdir() if path.is_dir()} - {"cache"}
        assert left == {MODEL} or (not left and not finished)  # it may be killed between its last file and its last event
        assert not left or weights(run) == weights(unharmed)
        registry.remove(run)
    print(f"{killed} of {KILLS} exports were killed before they ended")
    assert killed


def test_a_killed_generation_asks_nothing_twice(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    teacher = ("--local", "tiny", "--rows", "4", "--thin", "0", "--candidates", "2")
    run = registry.find_run(
        workspace, mlxtune(workspace, "data", "generate", "recipes/tiny.toml", "--detach", *teacher), "generate"
    )
    chance, killed = random.Random(7), 0
    replies: dict[str, object] = {}
    for _ in range(KILLS):
        kill_worker(run, chance.uniform(0, 0.5))
        now = {call["key"]: call["reply"] for call in read(run.folder / CALLS) if "reply" in call}
        assert {key: now[key] for key in replies} == replies  # nothing that was saved is lost
        replies = now
        if run.status() == "finished":
            break
        killed += 1
        launch.resume(run)
    wait_until(lambda: run.state().ended)
    assert run.status() == "finished"
    calls = [call["key"] for call in read(run.folder / CALLS) if "reply" in call]
    print(f"{killed} kills, {len(calls)} replies")
    assert set(Counter(calls).values()) == {1}
