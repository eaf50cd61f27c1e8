"""Workers that are frozen, doubled or left half-written files."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import small

from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry, worker
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import hold
from mlxtune.runs.registry import Run


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_frozen_worker_is_quiet_and_goes_on_when_it_is_woken(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detached worker ignores the terminal's stop; SIGSTOP is what a machine that sleeps looks like."""
    monkeypatch.setattr(registry, "QUIET_AFTER", 1.0)
    overrides = ("training.steps=100000", "training.save_every=100000", "training.validate_every=100000")
    run = launch.start(workspace, "train", load(workspace / "recipes" / "tiny.toml", overrides))
    wait_for(lambda: run.state().step >= 2)
    pid = run.state().pid
    os.kill(pid, signal.SIGTSTP)
    before = run.state().step
    wait_for(lambda: run.state().step >= before + 2)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: run.status() == "quiet", 10)
    finally:
        os.kill(pid, signal.SIGCONT)
    frozen = run.state().step
    wait_for(lambda: run.state().step >= frozen + 2 and run.status() == "running")
    registry.stop(run)
    wait_for(lambda: run.status() == "stopped")
    log, state = events.read_all(run.folder), run.state()
    assert [event["seq"] for event in log] == list(range(len(log)))
    assert [step.step for step in state.steps] == list(range(1, state.step + 1))
    assert state.checkpoints == (state.step,)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    small.prepare(tmp_path / "20261124-1412-small")
    return Run(tmp_path / "20261124-1412-small")


def test_a_second_worker_on_a_run_is_refused_in_one_line_and_writes_nothing(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "hold", partial(hold, patience=0.0))
    writer = EventWriter(run.folder)
    writer.emit("warning", text="the first one's")
    before = (run.folder / events.FILE).read_bytes()
    with hold(run.lock, busy=""):
        assert worker.live(run.folder, lambda _: pytest.fail("it worked")) == 4
    assert capsys.readouterr().err == "20261124-1412-small has a worker already.\n"
    assert (run.folder / events.FILE).read_bytes() == before


def test_a_new_worker_removes_what_a_killed_one_left_half_written_and_nothing_else(run: Run) -> None:
    half = [".data.json.k3_jx9ab", "adapter/.adapters.safetensors.abcd1234"]
    kept = [
        ".DS_Store",
        ".gitignore",
        f".{launch.RECORD}.abcd1234",
        "adapter/adapters.safetensors",
        "checkpoints/0000003/state.json",
    ]
    for name in (*half, *kept, "checkpoints/.0000004/state.json", "checkpoints/.0000002.old/state.json"):
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text("x")
    assert worker.live(run.folder, lambda _: {}) == 0
    assert [name for name in half if (run.folder / name).exists()] == []
    assert [name for name in kept if not (run.folder / name).exists()] == []
    assert [folder.name for folder in (run.folder / "checkpoints").iterdir()] == ["0000003"]
