"""Snapshots of Data and Review at a small and a large size, on fixed rows."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from .driver import RoomDriver
from .rows_stage import ROWS, Checks, answer, chat, fill, ready

SIZES = pytest.mark.parametrize("size", [(80, 24), (140, 45)], ids=["80x24", "140x45"])


def press(*keys: str, until: str) -> Callable[[Any], Awaitable[None]]:
    """Press ``keys``, the second of them once the source is checked, and wait for a notice that begins with ``until``."""

    async def run(pilot: Any) -> None:
        room = RoomDriver(pilot.app, pilot)
        await room.press(keys[0], until=lambda: ready(room))
        await room.press(*keys[1:], notice=until)
        await pilot.pause()

    return run


@pytest.fixture(autouse=True)
def _fixed(monkeypatch: pytest.MonkeyPatch, checks: Checks) -> None:
    """Make the snapshots independent of the user and the time."""
    monkeypatch.setattr("mlxtune.data.review._login_name", lambda: "ada")
    monkeypatch.setattr("mlxtune.tui.rooms.review.render.format_time", lambda seconds: "14:46")


@pytest.mark.slow
@SIZES
def test_data(shop, snap_compare, size):
    fill(shop)
    run = press("D", "a", "down", "x", "down", "down", until="✗ Row 2 rejected.")
    assert snap_compare(shop.app(), terminal_size=size, run_before=run)


@pytest.mark.slow
@SIZES
def test_review(shop, snap_compare, size):
    turns = [
        {"role": "user", "content": "My prescription number is 77-201, is it ready yet?"},
        {"role": "assistant", "content": answer("shipping", "It is ready at the counter.")},
        {"role": "user", "content": "Can I take these tablets together with ibuprofen?"},
        {"role": "assistant", "content": answer("safety", "Do not combine them before you have asked a pharmacist.")},
    ]
    row = chat("", "")
    row["messages"] = [row["messages"][0], *turns]
    fill(shop, [ROWS[0], row, *ROWS[1:]])
    # Data first: Review gives digits to the tags of the rows that have been read
    run = press("D", "R", "a", "2", "#", *"ask", "enter", until="✓ Row 2 annotated.")
    assert snap_compare(shop.app(), terminal_size=size, run_before=run)


@pytest.mark.slow
@SIZES
def test_labels(shop, snap_compare, size):
    fill(shop)

    async def run(pilot: Any) -> None:
        room = RoomDriver(pilot.app, pilot)
        await room.press("D", until=lambda: ready(room))
        await room.press("g", *(["g"] if size[0] < 100 else []), until=lambda: "billing" in room.text("#label-bars"))
        await pilot.pause()

    assert snap_compare(shop.app(), terminal_size=size, run_before=run)
