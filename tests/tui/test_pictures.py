"""How Home, Train and what lies over a room look: SVG pictures at a small and a large size, with a fixed clock and fixed data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .stage import Shop

SIZES = [(80, 24), (140, 45)]

pytestmark = pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x45"])


def test_home_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(shop.app(), terminal_size=size)


def test_home_loaded(loaded: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(loaded.app(), terminal_size=size, press=["down", "down"])


def test_home_failed(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe()
    bad = {"error": "The loss is not a number at step 88.", "mend": "Lower training.learning_rate.", "code": 2}
    shop.run("20261124-1412-support-json", steps=88, age=180, lost=88, end=("run.failed", bad))
    assert snap_compare(shop.app(), terminal_size=size)


def test_train_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe()
    assert snap_compare(shop.app(), terminal_size=size, press=["T"])


def test_train_running(loaded: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(loaded.app(), terminal_size=size, press=["T"])


def test_train_compared_at_a_step(loaded: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(loaded.app(), terminal_size=size, press=["T", "c", "end", "enter", "shift+left", "shift+left"])


def test_train_rewards(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe("brand-voice")
    shop.run("20261124-1412-brand-voice", steps=240, total=300, alive=True, samples=True, pairs=True)
    assert snap_compare(shop.app(), terminal_size=size, press=["T", "m"])


def test_jump(loaded: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(loaded.app(), terminal_size=size, press=["semicolon"])


def test_help(loaded: Shop, snap_compare: Any, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.core.settings.path", lambda: Path("/home/ada/.cache/mlxtune/settings.toml"))
    assert snap_compare(loaded.app(), terminal_size=size, press=["f1"])


def test_a_question(loaded: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(loaded.app(), terminal_size=size, press=["T", "s"])


def test_train_crashed(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe()
    printed = "libc++abi: terminating\nInsufficient Memory (kIOGPUCommandBufferCallbackErrorOutOfMemory)\n"
    shop.run("20261124-1412-support-json", steps=640, age=180, samples=True, printed=printed)
    assert snap_compare(shop.app(), terminal_size=size, press=["T"])


def test_train_failed(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    shop.recipe()
    bad = {
        "error": "The loss is not a number at step 88.",
        "mend": "Lower training.learning_rate; rows 12 and 40 were in that step.",
        "code": 2,
    }
    shop.run("20261124-1412-support-json", steps=88, age=180, lost=88, end=("run.failed", bad))
    assert snap_compare(shop.app(), terminal_size=size, press=["T"])
