"""Snapshots of Home, Train, Plan and the screens that lie over a room, with a fixed clock and fixed data."""

from pathlib import Path
from typing import Any

import pytest

from .driver import NARROW, RoomDriver
from .planned import plannable

pytestmark = pytest.mark.slow

LARGE = (140, 45)
SIZES = pytest.mark.parametrize("size", [NARROW, LARGE], ids=["80x24", "140x45"])


@SIZES
def test_home(loaded, snap_compare, size):
    assert snap_compare(loaded.app(), terminal_size=size, press=["down", "down"])


def test_home_empty(shop, snap_compare):
    assert snap_compare(shop.app(), terminal_size=NARROW)


@SIZES
def test_train(loaded, snap_compare, size):
    assert snap_compare(loaded.app(), terminal_size=size, press=["T"])


def test_train_comparison(loaded, snap_compare):
    assert snap_compare(loaded.app(), terminal_size=LARGE, press=["T", "c", "end", "enter", "shift+left", "shift+left"])


@SIZES
def test_plan(shop, snap_compare, size):
    plannable(shop, limit=0.6)

    async def planned(pilot: Any) -> None:
        await pilot.press("P")
        room = RoomDriver(pilot.app, pilot)
        await room.until(lambda: "This does not fit" in room.text("#plan-verdict"))

    assert snap_compare(shop.app(), terminal_size=size, run_before=planned)


def test_dialog(loaded, snap_compare):
    assert snap_compare(loaded.app(), terminal_size=NARROW, press=["T", "s"])


def test_help(loaded, snap_compare, monkeypatch):
    monkeypatch.setattr("mlxtune.core.settings.path", lambda: Path("/home/ada/.cache/mlxtune/settings.toml"))
    assert snap_compare(loaded.app(), terminal_size=LARGE, press=["f1"])
