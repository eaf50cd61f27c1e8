"""Snapshots of Data and Review at a small and a large size, on fixed rows."""

from collections.abc import Awaitable, Callable

import pytest

from .driver import NARROW, RoomDriver, picture_sizes
from .rows_stage import ROWS, Checks, answer, chat, fill, ready

pytestmark = pytest.mark.slow


def press(*keys: str, until: str) -> Callable[[RoomDriver], Awaitable[None]]:

    async def run(room: RoomDriver) -> None:
        await room.until(lambda: ready(room))
        await room.press(*keys, notice=until)

    return run


@pytest.fixture(autouse=True)
def _fixed(monkeypatch: pytest.MonkeyPatch, checks: Checks) -> None:
    monkeypatch.setattr("mlxtune.data.review._login_name", lambda: "ada")
    monkeypatch.setattr("mlxtune.tui.rooms.review.render.format_time", lambda seconds: "14:46")


@picture_sizes
def test_data(shop, picture, size):
    fill(shop)
    picture(shop, size, "data", press("a", "down", "x", "down", "down", until="✗ Row 2 rejected."))


@picture_sizes
def test_review(shop, picture, size):
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
    picture(shop, size, "data", press("R", "a", "2", "#", *"ask", "enter", until="✓ Row 2 annotated."))


@picture_sizes
def test_labels(shop, picture, size):
    async def labels(room: RoomDriver) -> None:
        await room.until(lambda: ready(room))
        await room.press("g", *(["g"] if size == NARROW else []), until=lambda: "billing" in room.text("#label-bars"))

    fill(shop)
    picture(shop, size, "data", labels)
