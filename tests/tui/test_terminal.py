"""The real app on a real terminal: it is left as it was found, whatever ends the app; faults are a sentence."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mlxtune.core import session
from mlxtune.data import samples
from mlxtune.tui.rooms import ROOMS

from .terminal import plain, terminal

BROKEN = """
import sys
from mlxtune.tui.screens.home import Home
def broken(self, snapshot):
    raise ValueError("seven [b]is\\x1b[2J odd")
Home.draw = broken
sys.argv = ["mlxtune"]
from mlxtune.cli.main import main
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


def test_a_fault_of_ours_is_a_sentence_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with terminal(tmp_path / "work", tmp_path / "home", code=BROKEN) as screen:
        assert screen.end() == 4
        told = plain(screen.written).decode()
        assert "✗ A fault of ours: ValueError: seven [b]is␛[2J odd" in told
        assert "Traceback" not in told
        assert screen.restored


@pytest.mark.parametrize("mode", list(ROOMS))
def test_the_app_opens_in_the_room_where_it_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """On a terminal, because there, and not under test, a room is made before it is on the stack of screens."""
    samples.create(tmp_path / "work")
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    session.remember(tmp_path / "work", {"room": mode, "rooms": {"data": {"filter": "avalanche", "order": "", "row": 3}}})
    with terminal(tmp_path / "work", tmp_path / "home") as screen:
        screen.until(f"▎ {ROOMS[mode].ROOM}")
        screen.press("\x11")
        assert screen.end() == 0
