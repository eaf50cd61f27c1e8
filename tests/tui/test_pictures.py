"""Snapshots of Home, Train, Plan and the screens that lie over a room, with a fixed clock and fixed data."""

from pathlib import Path

import pytest

from .driver import LARGE, NARROW, picture_sizes
from .planned import plannable

pytestmark = pytest.mark.slow


@picture_sizes
def test_home(loaded, snap_compare, size):
    assert snap_compare(loaded.app(), terminal_size=size, press=["down", "down"])


def test_home_empty(shop, snap_compare):
    assert snap_compare(shop.app(), terminal_size=NARROW)


@picture_sizes
def test_train(loaded, snap_compare, size):
    assert snap_compare(loaded.app(), terminal_size=size, press=["T"])


def test_train_comparison(loaded, snap_compare):
    assert snap_compare(loaded.app(), terminal_size=LARGE, press=["T", "c", "end", "enter", "shift+left", "shift+left"])


@picture_sizes
def test_plan(shop, picture, size):
    plannable(shop, limit=0.6)
    picture(shop, size, "plan", lambda room: room.until(lambda: "This does not fit" in room.text("#plan-verdict")))


def test_dialog(loaded, snap_compare):
    assert snap_compare(loaded.app(), terminal_size=NARROW, press=["T", "s"])


def test_help(loaded, snap_compare, monkeypatch):
    monkeypatch.setattr("mlxtune.core.settings.path", lambda: Path("/home/ada/.cache/mlxtune/settings.toml"))
    assert snap_compare(loaded.app(), terminal_size=LARGE, press=["f1"])
