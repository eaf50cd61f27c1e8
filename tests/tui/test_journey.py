"""The whole journey with the keyboard: the real app, the sample workspace, real workers, and the tiny model.

It is two tests, so that they can run in parallel: up to a trained adapter, and from a trained adapter on.
"""

import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from waiting import PATIENCE

from mlxtune.data import samples
from mlxtune.recipe import load
from mlxtune.recipe.edit import edit_recipe
from mlxtune.tui.app import MlxtuneApp
from mlxtune.workspace.index import RunView

from .driver import RoomDriver
from .rows_stage import ready

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_arms")]

SIZE = (140, 45)
EDITS = {"model.base": "../tiny", "evaluation.max_tokens": "8"}  # made in the app, in the order of the form
SMALL = {  # made outside the app, as the next ones
    "data.holdout": 0.05, "data.validation": 0.02, "data.max_tokens": 2048, "training.batch_size": 2, "training.validate_every": 30,
}  # fmt: skip
QUICK = {"training.steps": 30, "training.save_every": 10, "training.samples": 0, "evaluation.rows": 8, "evaluation.regression": ""}


@pytest.fixture
def workspace(tmp_path: Path, home: Path, tiny: Path) -> Path:
    """An empty workspace with a model. The home folder has what workers create once per machine."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "blas").symlink_to(home / "blas")
    shutil.copytree(tiny, tmp_path / "shop" / "tiny")
    return tmp_path / "shop"


class Walk(RoomDriver):
    """A user at the keyboard, who waits for workers."""

    @property
    def runs(self) -> tuple[RunView, ...]:
        return self.app.snapshot.runs

    @property
    def run(self) -> RunView:
        return self.runs[0]

    async def set_key(self, key: str, value: str) -> None:
        """Move the cursor of Plan's form down to ``key``, and type ``value``."""
        while self.screen._key.path != key:
            before = self.screen._key.path
            await self.press("down")
            assert self.screen._key.path != before, f"{key} is not below"
        await self.press("enter", "ctrl+u", *value, "enter")
        await self.until_notice(f"✓ {key.partition('.')[2]} is now {value}.")


@asynccontextmanager
async def opened(workspace: Path) -> AsyncIterator[Walk]:
    app = MlxtuneApp(workspace)
    async with app.run_test(size=SIZE) as pilot:
        walk = Walk(app, pilot)
        await walk.until(lambda: app.has_read)
        yield walk


async def test_from_an_empty_folder_to_a_trained_adapter(workspace):
    recipe = workspace / "recipes" / "support-json.toml"
    async with opened(workspace) as user:
        # Home: one key creates the sample workspace
        assert "Start with the sample workspace" in user.text("#next-picture")
        await user.press("enter", until=lambda: "support.jsonl" in user.text("#next-picture"))
        edit_recipe(recipe, SMALL | QUICK)
        # Data: a child process checks every row; one is accepted
        await user.press("D", mode="data")
        await user.until(lambda: ready(user))
        assert user.app.sessions.session is not None
        assert user.app.sessions.session.browser is not None
        assert len(user.app.sessions.session.browser) == 836
        await user.press("a", notice="✓ Row 1 accepted.")
        # Review: it opens on the next row, which is rejected
        await user.press("R", mode="review")
        await user.until(lambda: user.head("#read").startswith("▌ Row 2 "))
        await user.press("x", notice="✗ Row 2 rejected.")
        # Plan: edits are written to the file, whose comments stay
        await user.press("P", mode="plan")
        for key, value in EDITS.items():
            await user.set_key(key, value)
        await user.until(lambda: "This fits" in user.text("#plan-verdict"))
        assert load(recipe).model.base == "../tiny"
        assert "#" in recipe.read_text()
        # Evaluate: the base, before anything is trained
        await user.press("E", mode="evaluate")
        await user.press("enter", choose="0")
        await user.press(choose="0", until=lambda: bool(user.app.snapshot.verdict))
        # Train: a run, and its curve
        await user.press("T", mode="train")
        await user.press("n", choose="0")
        await user.choose("train")  # though the rows were checked before the edits
        await user.until(lambda: bool(user.runs) and user.run.run.state().step >= 3)  # as soon as it is on disk
        os.kill(user.run.run.state().pid, signal.SIGSTOP)  # it must not end while the app is closed
        await user.until(lambda: user.run.state.step >= 3)
        await user.press("q")
    before = user.run
    async with opened(workspace) as user:
        # The room is restored, with the whole curve
        await user.until(lambda: user.mode == "train" and bool(user.runs) and user.run.state.step >= before.state.step)
        assert "smoothed" in user.head("#chart")
        assert [step.step for step in user.run.state.steps] == list(range(1, user.run.state.step + 1))
        await user.press("s", choose="stop", notice="■ support-json was asked to stop")
        os.kill(before.state.pid, signal.SIGCONT)
        await user.until(lambda: user.run.status == "stopped" and "resume" in user.actions)
        await user.press("r", until=lambda: user.run.status == "finished")
        assert user.run.state.step == user.run.state.total


def train(workspace: Path) -> None:
    from mlxtune.workspace import control

    recipe = samples.create(workspace)
    base = {"model.base": "../tiny", "evaluation.max_tokens": 8}
    edit_recipe(recipe, SMALL | base | {"training.steps": 12, "training.learning_rate": 2e-2, "training.save_every": 12})
    run = control.train(workspace, load(recipe))
    give_up = time.monotonic() + PATIENCE
    while run.status() != "finished":
        assert time.monotonic() < give_up, run.log_tail()
        time.sleep(0.2)


@pytest.mark.exhaustive
async def test_from_a_trained_adapter_to_a_chat(workspace):
    train(workspace)
    async with opened(workspace) as user:
        # Evaluate: base against tuned, and from a number to a row
        await user.press("E", mode="evaluate")
        await user.press("enter", choose="0")
        await user.press(choose="0", until=lambda: bool(user.app.snapshot.verdict and user.app.snapshot.verdict.outcome))
        await user.until(lambda: user.focus == "ev-list" and "row" in user.actions)
        await user.press("enter", until=lambda: user.mode == "")
        await user.press("escape")
        # Blind: two votes without the arms' names
        await user.press("B", mode="blind")
        await user.until(lambda: "begin" in user.actions)
        await user.press("enter", choose="10", until=lambda: "0 of 3 answered" in user.head("#bl-questions"))
        for vote, count in (("a", "1 of 3 answered"), ("=", "2 of 3 answered")):
            await user.press(vote)
            await user.until(lambda count=count: count in user.head("#bl-questions"))  # type: ignore[misc]
            await user.pilot.pause(0.2)  # a second vote at once counts as a bounced key
        # Adapters: it is there, and gets a name
        await user.press("A", mode="adapters")
        await user.until(lambda: "rename" in user.actions)
        await user.press("e", answer="first-try", notice="✓")
        # Chat: it answers
        await user.press("o", until=lambda: user.mode == "chat" and user.focus == "chat-field")
        await user.press(*"Where is my parcel?", "enter")
        chat = user.screen.chat
        await user.until(lambda: bool(chat.exchanges) and not chat.streaming)
        (reply,) = chat.exchanges[-1].replies
        assert (reply.adapter, reply.error, bool(reply.text)) == ("first-try", "", True)
        # Advice: the interview begins
        await user.press("escape")
        await user.press("V", mode="advice")
        await user.until(lambda: "5 left" in user.head("#advice-interview"))
        await user.press("down", "enter", until=lambda: "4 left" in user.head("#advice-interview"))
