"""Workers that are frozen, started twice, or find partially written files."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import small
from waiting import wait_until

from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry, worker
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import file_lock
from mlxtune.runs.registry import Run

pytestmark = pytest.mark.slow


def test_frozen_worker_is_quiet_and_continues_after_wakeup(workspace, monkeypatch):
    """A detached worker ignores the terminal's stop signal; SIGSTOP simulates a sleeping machine."""
    monkeypatch.setattr(registry, "QUIET_AFTER", 1.0)
    overrides = ("training.steps=20000", "training.save_every=20000", "training.validate_every=20000")
    run = launch.start(workspace, "train", load(workspace / "recipes" / "tiny.toml", overrides))
    wait_until(lambda: run.state().step >= 2)
    pid = run.state().pid
    os.kill(pid, signal.SIGTSTP)
    before = run.state().step
    wait_until(lambda: run.state().step >= before + 2)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: run.status() == "quiet")
    finally:
        os.kill(pid, signal.SIGCONT)
    frozen = run.state().step
    wait_until(lambda: run.state().step >= frozen + 2 and run.status() == "running")
    registry.stop(run)
    wait_until(lambda: run.status() == "stopped")
    log, state = events.read_all(run.folder), run.state()
    assert [event["seq"] for event in log] == list(range(len(log)))
    assert [step.step for step in state.steps] == list(range(1, state.step + 1))
    assert state.checkpoints == [state.step]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # keep this process's own handlers
    small.prepare(tmp_path / "20261124-1412-small")
    return Run(tmp_path / "20261124-1412-small")


def test_second_worker_is_refused_and_writes_nothing(run, capsys, monkeypatch):
    monkeypatch.setattr(worker, "file_lock", partial(file_lock, timeout=0.0))
    writer = EventWriter(run.folder)
    writer.emit("warning", code="export_note", values={"note": "the first one's"})
    before = (run.folder / events.FILE).read_bytes()
    with file_lock(run.lock, busy=""):
        assert worker.run_worker(run.folder, lambda _: pytest.fail("it worked")) == 4
    assert capsys.readouterr().err == "20261124-1412-small already has a worker.\n"
    assert (run.folder / events.FILE).read_bytes() == before


def test_new_worker_removes_only_partial_files(run):
    half = [".data.json.k3_jx9ab", "adapter/.adapters.safetensors.abcd1234"]
    complete = [
        ".DS_Store",
        ".gitignore",
        f".{registry.LAUNCH_FILE}.abcd1234",
        "adapter/adapters.safetensors",
        "checkpoints/0000003/state.json",
    ]
    for name in (*half, *complete, "checkpoints/.0000004/state.json", "checkpoints/.0000002.old/state.json"):
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_text("x")
    assert worker.run_worker(run.folder, lambda _: {}) == 0
    assert [name for name in half if (run.folder / name).exists()] == []
    assert [name for name in complete if not (run.folder / name).exists()] == []
    assert [folder.name for folder in (run.folder / "checkpoints").iterdir()] == ["0000003"]
