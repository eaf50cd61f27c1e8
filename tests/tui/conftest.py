"""Fixtures for the app: own home, own time zone, own memory figures, and workspaces in a temporary folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlxtune.planning.machine import Memory
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.widgets.frame import LETTERS

from .stage import GB, Shop


@pytest.fixture(autouse=True)
def _sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing a test does or shows depends on the machine it runs on."""
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("mlxtune.tui.snapshot.memory", lambda: Memory(round(11.8 * GB), 32 * GB))
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def _every_tab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures show all ten tabs, so that a room that comes changes its own alone."""
    if request.module.__name__.rpartition(".")[2].startswith("test_pictures"):
        monkeypatch.setattr(MlxtuneApp, "rooms", tuple(LETTERS))
        monkeypatch.setattr(MlxtuneApp, "modes", tuple(name.lower() for name in LETTERS))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """An empty workspace."""
    with ExitStack() as stack:
        yield Shop(tmp_path / "shop", monkeypatch, stack)


@pytest.fixture
def loaded(shop: Shop) -> Shop:
    """A workspace with a recipe, three runs that ended and one that trains."""
    shop.recipe()
    shop.run("20261119-1010-tone-soft", steps=180, total=400, age=5 * 86400, end=("run.stopped", {"step": 180}))
    bad = {"error": "The loss is not a number at step 88.", "mend": "Lower the learning rate.", "code": 2}
    shop.run("20261122-0900-support-json", steps=88, age=2 * 86400 + 5000, lost=88, end=("run.failed", bad))
    shop.run("20261122-1010-support-json", steps=960, age=2 * 86400, end=("run.finished", {"summary": {}}))
    shop.run("20261124-1412-support-json", steps=640, alive=True, samples=True)
    return shop
