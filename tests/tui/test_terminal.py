"""The app on a terminal, which it restores however it ends."""

import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from arenas import DESCRIBE, count_arenas, needs_glibc
from exhaustive import cases
from waiting import PATIENCE, kill_worker, wait_for_state, wait_until

from mlxtune.data import samples
from mlxtune.runs import registry
from mlxtune.runs.locks import is_locked
from mlxtune.tui import saved_state
from mlxtune.tui.rooms import ROOMS

from .terminal import plain, terminal

pytestmark = pytest.mark.slow

APP = """
import sys
sys.argv = ["mlxtune"]
from mlxtune.cli.start import main
main()
"""

BROKEN = """
from mlxtune.tui.rooms.home.screen import HomeRoom
def broken(self, snapshot):
    raise ValueError("seven [b]is\\x1b[2J odd")
HomeRoom.draw = broken
"""

# A handler that never returns to the event loop, and a helper that ignores the end of its parent, like one that computes.
# Signals do not interrupt it, as if they arrived just before its call.
STUCK = """
import signal, sys, time
from pathlib import Path
from mlxtune.core.child_process import ChildProcess
from mlxtune.tui.rooms.home.screen import HomeRoom
def stuck(self, snapshot):
    helper = ChildProcess("stuck", name="The helper", command=[sys.executable, "-c", "import time; time.sleep(600)"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    Path("stuck").touch()
    time.sleep(600)
HomeRoom.draw = stuck
"""

TRAINS = """
from pathlib import Path
from mlxtune.recipe import load
from mlxtune.runs import launch
recipe = load(Path("recipes/tiny.toml"), ("training.steps=20000", "training.save_every=50", "training.validate_every=20000"))
launch.START_TIMEOUT = 600.0
launch.start(Path.cwd(), "train", recipe)
"""

COUNTS_READERS = """
import threading, time
from pathlib import Path
def count():
    while True:
        readers = sum(thread.name == "textual-input" for thread in threading.enumerate())
        Path("new").write_text(str(readers))
        Path("new").rename("readers")
        time.sleep(0.05)
threading.Thread(target=count, daemon=True).start()
"""


CONTINUES_WITHIN_A_WRITE = """
import os, queue, signal
put = queue.Queue._put  # called with the queue's lock
def interrupted(self, item):
    if "Start" in str(item) and queue.Queue._put is interrupted:
        queue.Queue._put = put
        os.kill(os.getpid(), signal.SIGCONT)
    put(self, item)
queue.Queue._put = interrupted
"""

EMPTY = "Start with the sample workspace"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_sigterm_leaves_the_terminal_as_it_was(work):
    with terminal(work, work.parent / "home", columns=80, rows=24) as screen:
        screen.until(EMPTY)
        os.kill(screen.process.pid, signal.SIGTERM)
        assert screen.end() == 0
        assert screen.restored


def test_keys_are_read_by_one_thread_after_a_stop_from_outside(work):
    with terminal(work, work.parent / "home", code=COUNTS_READERS + APP) as screen:
        screen.until(EMPTY)
        for count in (1, 2):
            os.kill(screen.process.pid, signal.SIGSTOP)
            os.kill(screen.process.pid, signal.SIGCONT)
            screen.wait_for(lambda count=count: screen.written.count(b"\x1b[?1004h") > count)  # the last before the thread starts
            (work / "readers").unlink()
            screen.wait_for((work / "readers").exists)
            screen.wait_for(lambda: (work / "readers").read_text() == "1")
        screen.press("q")
        assert screen.end() == 0
        assert screen.restored


def test_a_signal_within_a_write_does_not_stop_the_app(work):
    with terminal(work, work.parent / "home", code=CONTINUES_WITHIN_A_WRITE + APP) as screen:
        screen.wait_for(lambda: screen.written.count(b"\x1b[?1004h") > 1)
        screen.press("q")
        assert screen.end() == 0
        assert screen.restored


@needs_glibc
def test_threads_do_not_keep_the_memory_of_jobs(work):
    with terminal(work, work.parent / "home", code=DESCRIBE + APP) as screen:
        screen.until(EMPTY)
        screen.press("q")
        assert screen.end() == 0
    assert count_arenas(work) == 1


@pytest.mark.parametrize("hangup_signal", cases([True, False], "True"))
def test_a_closed_terminal_ends_the_app_and_its_helpers(tmp_path, monkeypatch, hangup_signal):
    """The process has no controlling terminal, so closing the terminal sends no signal."""
    samples.create(tmp_path / "work")
    (tmp_path / "work" / "model").mkdir()  # a base that is there, though it has no tokenizer
    recipe = tmp_path / "work" / "recipes" / "support-json.toml"
    recipe.write_text(recipe.read_text().replace('"smollm2-135m"', '"../model"'))
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    saved_state.save(tmp_path / "work", {"room": "review"})
    with terminal(tmp_path / "work", tmp_path / "home") as screen:
        screen.until("▎ Review")
        screen.wait_for(lambda: any("mask_worker" in command for command in children(screen.process.pid).values()))
        helpers = children(screen.process.pid)
        screen.hang_up()
        if hangup_signal:
            os.kill(screen.process.pid, signal.SIGHUP)
        screen.process.wait(PATIENCE)
        wait_until_dead(helpers)
    assert saved_state.load(tmp_path / "work")["room"] == "review"


def test_the_end_of_its_input_alone_ends_the_app(work):
    with terminal(work, work.parent / "home", own_input=True) as screen:
        screen.until(EMPTY)
        screen.end_input()
        screen.end()


@pytest.mark.parametrize("closed", cases([True, False], "True"))
def test_a_hangup_ends_an_app_that_cannot_exit_by_itself(work, closed):
    """The terminal is closed without a signal, or stays open after one."""
    with terminal(work, work.parent / "home", code=STUCK + APP) as screen:
        screen.wait_for((work / "stuck").exists)
        helpers = children(screen.process.pid)
        assert helpers
        if closed:
            screen.hang_up()
        else:
            os.kill(screen.process.pid, signal.SIGHUP)
        assert screen.process.wait(PATIENCE) == 129
        wait_until_dead(helpers)


def test_a_run_goes_on_when_the_terminal_of_its_app_is_closed(workspace, home, monkeypatch):
    monkeypatch.setenv("MLXTUNE_HOME", str(home))
    with terminal(workspace, home, code=TRAINS + APP) as screen:
        screen.until("▎ ")
        (run,) = registry.list_runs(workspace)
        try:
            screen.hang_up()
            os.kill(screen.process.pid, signal.SIGHUP)
            screen.process.wait(PATIENCE)
            step = run.state().step
            wait_for_state(run, lambda state: state.step > step + 3)
            registry.stop(run)
            wait_for_state(run, lambda state: state.phase == "stopped")
        finally:
            if is_locked(run.lock):
                kill_worker(run)


def children(pid: int) -> dict[int, str]:
    lines = subprocess.run(["ps", "-axo", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout.splitlines()
    return {int(child): command for child, parent, command in (line.split(None, 2) for line in lines) if int(parent) == pid}


def wait_until_dead(pids: Iterable[int]) -> None:
    wait_until(lambda: not any(map(is_alive, pids)), interval=0.05)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie, which nobody has waited for, does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.mark.parametrize(
    ("code", "keys", "error"),
    [
        (BROKEN + APP, "", "seven [b]is␛[2J odd"),
        ("", "\x1b[1114112u", "chr() arg not in range(0x110000)"),  # no code point
    ],
    ids=["while drawing", "by a key"],
)
def test_an_internal_error_is_a_sentence_without_a_traceback(work, code, keys, error):
    with terminal(work, work.parent / "home", code=code) as screen:
        if keys:
            screen.until(EMPTY)
            screen.press(keys)
        assert screen.end() == 4
        output = plain(screen.written).decode()
        assert f"✗ Internal error: ValueError: {error}" in output
        assert "Traceback" not in output
        assert screen.restored


def test_keys_typed_after_quitting_are_ignored(tmp_path):
    samples.create(tmp_path / "work")
    with terminal(tmp_path / "work", tmp_path / "home") as screen:
        screen.until("▎ Home")
        screen.press("qDARqD")
        assert screen.end() == 0
        assert screen.restored


@pytest.mark.parametrize("mode", cases(("review", "chat", *(mode for mode in ROOMS if ROOMS[mode].inside)), "review"))
def test_the_app_opens_in_the_last_room(tmp_path, monkeypatch, mode):
    """On a terminal a room is created before it is on the screen stack; in a test it is not."""
    samples.create(tmp_path / "work")
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    saved_state.save(tmp_path / "work", {"room": mode, "source": {"filter": "avalanche", "order": "", "row": 3}})
    with terminal(tmp_path / "work", tmp_path / "home") as screen:
        screen.until(f"▎ {ROOMS[ROOMS[mode].inside or mode].name}")
        screen.until(ROOMS[mode].name)  # the heading of a room without a tab
        screen.press("\x11")
        assert screen.end() == 0
