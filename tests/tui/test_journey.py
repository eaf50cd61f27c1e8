"""The whole journey, as a user goes it: the real app, keys alone, the sample workspace, real workers, and the tiny model."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mlxtune.recipe import load
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.snapshot import RunView

from .stage import footer, shown, until

PATIENCE = 150.0  # seconds that a worker may take on a busy machine
SIZE = (140, 45)
EDITS = {  # what a small model needs to be quick, in the order of the form
    "model.base": "../tiny", "data.holdout": "0.05", "data.max_tokens": "2048", "training.batch_size": "2",
    "training.save_every": "10", "evaluation.max_tokens": "8",
}  # fmt: skip


@pytest.fixture
def desert(tmp_path: Path, home: Path, tiny: Path) -> Path:
    """An empty workspace but for a model; and in the home of the test what workers would make once a machine."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "blas").symlink_to(home / "blas")
    shutil.copytree(tiny, tmp_path / "shop" / "tiny")
    return tmp_path / "shop"


class Walk:
    """A user at the keyboard."""

    def __init__(self, app: MlxtuneApp, pilot: Any) -> None:
        self.app, self._pilot = app, pilot

    async def press(self, *keys: str, sees: str = "") -> None:
        await self._pilot.press(*keys)
        if sees:
            await self.sees(sees)

    async def sees(self, text: str) -> None:
        """Wait until ``text`` is on screen, whatever the line breaks."""
        await self.until(lambda: text in " ".join(shown(self.app).split()))

    async def until(self, true: Callable[[], bool]) -> None:
        await until(self._pilot, true, PATIENCE)

    async def offered(self, verb: str) -> None:
        """Wait until the footer has ``verb``."""
        await self.until(lambda: verb in footer(self.app))

    async def breathe(self, seconds: float) -> None:
        await self._pilot.pause(seconds)

    @property
    def runs(self) -> tuple[RunView, ...]:
        return self.app.snapshot.runs if self.app.snapshot else ()

    @property
    def run(self) -> RunView:
        """The newest."""
        return self.runs[0]

    async def choose(self, question: str, option: str) -> None:
        """Answer ``question`` with the option whose row has ``option``."""
        await self.sees(question)
        for _ in range(20):
            if any("▌" in row and option in row for row in shown(self.app).splitlines()):
                break
            await self.press("down")
        await self.press("enter")
        await self.until(lambda: question not in shown(self.app))

    async def set(self, key: str, value: str) -> None:
        """Put the cursor of the form on ``key``, and write ``value`` there."""
        await self.press("home")
        for _ in range(60):
            if f"{key}:" in shown(self.app):
                break
            await self.press("down")
        await self.press("enter", "ctrl+u", *value, "enter", sees=f"{key.partition('.')[2]} is {value}.")


@asynccontextmanager
async def opened(workspace: Path) -> AsyncIterator[Walk]:
    app = MlxtuneApp(workspace)
    async with app.run_test(size=SIZE) as pilot:
        yield Walk(app, pilot)


async def test_from_an_empty_folder_to_an_adapter_that_answers(desert: Path) -> None:
    recipe = desert / "recipes" / "support-json.toml"
    async with opened(desert) as user:
        # Home: the sample workspace is one key away
        await user.sees("Start with the sample workspace.")
        await user.press("enter", sees="support.jsonl")
        # Data: every row was checked by a process of its own; one is accepted
        await user.press("D", sees="492 rows")
        await user.sees("Clean. Nothing is wrong with these 492 rows.")
        await user.press("a", sees="Row 1 accepted.")
        # Review: the next row, and it never trains
        await user.press("R", "right", sees="Row 2")
        await user.press("x", sees="Row 2 rejected.")
        # Plan: what is typed is written to the file, whose comments stay
        await user.press("P", sees="model.base:")
        for key, value in EDITS.items():
            await user.set(key, value)
        await user.sees("This fits")
        assert load(recipe).model.base == "../tiny"
        assert "# the best prompt, for the arm base+prompt" in recipe.read_text()
        # Evaluate: the base, before anything is trained
        await user.press("E", "enter")
        await user.choose("Evaluate what?", "support-json.toml")
        await user.choose("Which arms?", "as the recipe says")
        await user.sees("Arms")
        # Train: a run, and its curve
        await user.press("T", "n")
        await user.choose("Which recipe?", "support-json.toml")
        await user.until(lambda: bool(user.runs) and user.run.state.step >= 3)
        await user.sees("smoothed")
        os.kill(user.run.state.pid, signal.SIGSTOP)  # it does not end while nobody looks
        await user.press("q")
    before = user.run
    async with opened(desert) as user:
        # The room is back, with the whole curve
        await user.until(lambda: user.app.current_mode == "train" and bool(user.runs) and user.run.state.step >= before.state.step)
        await user.sees("smoothed")
        assert [step.step for step in user.run.state.steps] == list(range(1, user.run.state.step + 1))
        await user.press("s")
        await user.choose("Stop support-json", "Stop")
        await user.sees("was asked to stop")
        os.kill(before.state.pid, signal.SIGCONT)
        await user.until(lambda: user.run.status == "stopped")
        await user.offered("r resume")
        await user.press("r")
        await user.until(lambda: user.run.status == "finished")
        assert user.run.state.step == user.run.state.total
        # Evaluate: base against tuned, and from a number to a row
        await user.press("E", "n")
        await user.choose("Evaluate what?", "its adapter")
        await user.choose("Which arms?", "as the recipe says")
        await user.sees("tuned")
        await user.until(lambda: user.app.snapshot is not None and user.app.snapshot.verdict is not None)
        await user.sees("held-out rows, none trained on")
        await user.until(lambda: bool(user.app.focused and user.app.focused.id == "ev-list"))
        await user.press("enter", sees="Line ")
        await user.press("escape")
        # Blind: two votes without knowing whose answer is whose
        await user.press("B")
        await user.offered("enter begin")
        await user.press("enter")
        await user.choose("How many pairs?", "10 pairs")
        for vote, counted in (("a", "1 of 3 answered"), ("s", "2 of 3 answered")):
            await user.press(vote, sees=counted)
            await user.breathe(0.2)  # a second vote at once would be taken for a key that bounced
        # Adapters: it is there, and gets a name
        await user.press("A", sees=user.run.name)
        await user.press("r", sees="What is it called?")
        await user.press("ctrl+u", *"first-try", "enter", sees="▌ · first-try")
        # Chat: it answers
        await user.press("a")
        await user.until(lambda: user.app.current_mode == "chat" and bool(user.app.focused and user.app.focused.id == "chat-field"))
        await user.press(*"Where is my parcel?", "enter")
        talk = user.app.screen.talk  # type: ignore[attr-defined]
        await user.until(lambda: bool(talk.exchanges) and not talk.writing)
        (answer,) = talk.exchanges[-1].sides
        assert (answer.adapter, answer.error, bool(answer.text)) == ("first-try", "", True)
        # Advice: the interview begins, over what was measured
        await user.press("escape", "V", sees="5 questions left")
        await user.press("down", "enter", sees="4 questions left")
