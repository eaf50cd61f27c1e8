"""The app on a terminal, which it restores however it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mlxtune.core import app_state
from mlxtune.data import samples
from mlxtune.tui.rooms import ROOMS

from .terminal import plain, terminal

pytestmark = pytest.mark.slow

BROKEN = """
import sys
from mlxtune.tui.rooms.home.screen import HomeRoom
def broken(self, snapshot):
    raise ValueError("seven [b]is\\x1b[2J odd")
HomeRoom.draw = broken
sys.argv = ["mlxtune"]
from mlxtune.cli.start import main
main()
"""


@pytest.mark.parametrize(("ending", "code"), [("q", 0), ("TERM", 0)])
def test_the_terminal_is_left_as_it_was(tmp_path: Path, ending: str, code: int) -> None:
    (tmp_path / "work").mkdir()
    with terminal(tmp_path / "work", tmp_path / "home", columns=80, rows=24) as screen:
        screen.until("Start with the sample workspace.")
        if ending == "q":
            screen.press("q")
        else:
            os.kill(screen.process.pid, signal.SIGTERM)
        assert screen.end() == code
        assert screen.restored


def test_a_closed_terminal_ends_the_app(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with terminal(tmp_path / "work", tmp_path / "home") as screen:
        screen.until("Start with the sample workspace.")
        screen.hang_up()
        os.kill(screen.process.pid, signal.SIGHUP)
        screen.process.wait(20)


def test_an_internal_error_is_a_sentence_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with terminal(tmp_path / "work", tmp_path / "home", code=BROKEN) as screen:
        assert screen.end() == 4
        output = plain(screen.written).decode()
        assert "✗ Internal error: ValueError: seven [b]is␛[2J odd" in output
        assert "Traceback" not in output
        assert screen.restored


@pytest.mark.parametrize("mode", list(ROOMS))
def test_the_app_opens_in_the_last_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """On a terminal a room is created before it is on the screen stack; in a test it is not."""
    samples.create(tmp_path / "work")
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    app_state.save(tmp_path / "work", {"room": mode, "rooms": {"data": {"filter": "avalanche", "order": "", "row": 3}}})
    with terminal(tmp_path / "work", tmp_path / "home") as screen:
        screen.until(f"▎ {ROOMS[mode].name}")
        screen.press("\x11")
        assert screen.end() == 0
