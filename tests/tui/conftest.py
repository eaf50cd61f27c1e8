"""Fixtures for the app: own home, own time zone, own memory figures, and workspaces in a temporary folder."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from textual.cache import LRUCache
from textual.pilot import Pilot

from mlxtune.planning.machine import Memory, PowerState
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.theme import CachedStylesheet

from .driver import WIDE, Opening, RoomDriver, drive, wait_for_messages, wait_for_widgets
from .rows_stage import checks, local_bases, tokens  # noqa: F401, which are fixtures
from .stage import FINISHED, GB, NOW, Shop


class SharedStylesheet(CachedStylesheet):
    """Parse a sheet once for all tests."""

    _shared: ClassVar[dict[frozenset[tuple[str, str]], LRUCache[tuple[Any, ...], Any]]] = {}

    def __init__(self, *, variables: dict[str, str] | None = None) -> None:
        super().__init__(variables=variables)
        self._use_shared()

    def set_variables(self, variables: dict[str, str]) -> None:
        if variables != self._variables:
            self._parse_cache = LRUCache(1)  # the next line clears it
            super().set_variables(variables)
            self._use_shared()

    def _use_shared(self) -> None:
        self._parse_cache = self._shared.setdefault(frozenset(self._variables.items()), LRUCache(1024))


@pytest.fixture(autouse=True)
def _sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing a test does or shows depends on the machine it runs on."""
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(Pilot, "_wait_for_screen", lambda pilot: wait_for_widgets(pilot.app))
    monkeypatch.setattr("textual.app.wait_for_idle", wait_for_messages)
    monkeypatch.setattr("textual.pilot.wait_for_idle", wait_for_messages)
    monkeypatch.setattr("mlxtune.tui.app.CachedStylesheet", SharedStylesheet)
    monkeypatch.setattr("mlxtune.tui.notices.BRIEF_SECONDS", 600.0)
    monkeypatch.setattr("mlxtune.tui.key_order._PATIENCE", 30.0)
    monkeypatch.setattr("mlxtune.workspace.control.fetch_base", lambda *_: None)  # it would install the bundled model
    monkeypatch.setattr("mlxtune.workspace.index.power", PowerState)
    monkeypatch.setattr("mlxtune.workspace.index.memory", lambda: Memory(32 * GB, 32 * GB - round(11.8 * GB)))
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with ExitStack() as stack:
        yield Shop(tmp_path / "shop", monkeypatch, stack)


@pytest.fixture
def loaded(shop: Shop) -> Shop:
    """A workspace with a recipe, three runs that ended and one that trains."""
    return loaded_shop(shop)


def loaded_shop(shop: Shop) -> Shop:
    shop.recipe()
    shop.run("20261119-1010-tone-soft", steps=180, total=400, age=5 * 86400, end=("run.stopped", {"step": 180}))
    bad = {"error": "The loss is not a number at step 88.", "hint": "Lower the learning rate.", "code": 2}
    shop.run("20261122-0900-support-json", steps=88, age=2 * 86400 + 5000, lost=88, end=("run.failed", bad))
    shop.run("20261122-1010-support-json", steps=960, age=2 * 86400, end=FINISHED)
    shop.run("20261124-1412-support-json", steps=640, alive=True, samples=True)
    return shop


@pytest.fixture
def two_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that lists no arms evaluates the base and the adapter."""
    monkeypatch.setattr("mlxtune.evaluation.arms.default_arms", lambda recipe: ("base", "tuned"))


OpenRoom = Callable[..., AbstractAsyncContextManager[RoomDriver]]


@pytest.fixture
def open_room(request: pytest.FixtureRequest, shop: Shop) -> OpenRoom:
    """Run the app on the workspace in one room: ``async with open_room("data", size=NARROW, now=NOW + 60) as room``.

    Without a mode, the room is that of the module's ``ROOM``, and it can be used.
    """

    @asynccontextmanager
    async def opened(mode: str = "", size: tuple[int, int] = WIDE, now: float = NOW) -> AsyncIterator[RoomDriver]:
        opening = Opening(mode) if mode else request.module.ROOM
        async with drive(shop.app(now, opening.mode), opening.mode, size) as room:
            if opening.settle:
                await opening.settle(room)
            yield room

    return opened


@pytest.fixture
async def room(request: pytest.FixtureRequest, shop: Shop) -> AsyncIterator[RoomDriver]:
    """The app, opened as the module's ``ROOM``, the test's ``opens``, and its parameter ``size`` say."""
    mark = request.node.get_closest_marker("opens")
    opening: Opening = replace(request.module.ROOM, **(mark.kwargs if mark else {}))
    size = request.getfixturevalue("size") if "size" in request.fixturenames else opening.size
    staged = opening.stage(shop)
    async with drive(shop.app(room=opening.mode), opening.mode, size) as room:
        room.staged = staged
        if opening.settle:
            await opening.settle(room)
        yield room


Picture = Callable[..., None]


@pytest.fixture
def picture(snap_compare: Callable[..., bool]) -> Picture:
    """Compare a room of a workspace with its picture: ``picture(shop, size, "chat", prepare)``."""

    def compare(shop: Shop, size: tuple[int, int], mode: str, prepare: Callable[[RoomDriver], Awaitable[object]]) -> None:
        async def before(pilot: Pilot[object]) -> None:
            room = RoomDriver(pilot.app, pilot)  # type: ignore[arg-type]
            await room.press(ROOMS[mode].key, mode=mode)
            await prepare(room)
            await pilot.pause()

        assert snap_compare(shop.app(), terminal_size=size, run_before=before)

    return compare
