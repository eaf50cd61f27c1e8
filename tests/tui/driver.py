"""Drives a room of the app by its keys, and reads its state and single widgets instead of the screen."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from exhaustive import cases
from textual import events
from textual._context import active_app
from textual.app import App
from textual.message_pump import MessagePump
from textual.widgets import Input
from textual.worker import Worker
from waiting import PATIENCE

from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.key_order import OrderedKeys
from mlxtune.tui.notices import NOTICE_MARKS
from mlxtune.tui.room import Room
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets import ChoiceDialog, EditDialog, Editor, Panel, PromptDialog, Section
from mlxtune.workspace.index import Snapshot

from .stage import Shop, observe, shown, until

WIDE = (120, 36)
NARROW = (80, 24)
SIZES = [(1, 1), (20, 5), (60, 15), (200, 60)]
LARGE = (140, 45)
picture_sizes = pytest.mark.parametrize("size", [NARROW, LARGE], ids=["80x24", "140x45"])
any_size = pytest.mark.parametrize("size", cases(SIZES, "1x1", name=lambda size: f"{size[0]}x{size[1]}"))


class RoomDriver:
    """An app that runs headless, and the room that it shows."""

    def __init__(self, app: MlxtuneApp, pilot: Any) -> None:
        self.app, self.pilot = app, pilot
        self.staged: Any = None  # what Opening.stage returned

    @property
    def screen(self) -> Any:
        return self.app.screen

    @property
    def mode(self) -> str:
        """The room on show; empty while a dialog is above it."""
        return self.app.screen.mode if isinstance(self.app.screen, Room) else ""

    async def press(
        self, *keys: str, choose: str | None = None, answer: str | None = None, notice: str = "", mode: str = "",
        until: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        """Press ``keys``, choose an option or answer a prompt, and wait for a notice with this beginning, a room, and a condition."""
        await self.pilot.press(*keys)
        if choose is not None:
            await self.choose(choose)
        if answer is not None:
            await self.answer(answer)
        if notice:
            await self.until_notice(notice)
        if mode:
            await self.until(lambda: self.mode == mode)
        if until:
            await self.until(until)

    async def press_quickly(self, *keys: str) -> None:
        """Press each key before the app has handled the one before, as a fast typist does."""
        for key in keys:
            self.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        await self.pilot.press(*("space" if sign == " " else sign for sign in text))

    async def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        await until(self.pilot, condition, seconds)

    async def until_notice(self, text: str) -> None:
        await self.until(lambda: self.notice.startswith(text))

    async def observe(self, snapshot: Snapshot) -> None:
        await observe(self.pilot, snapshot)

    async def answer(self, text: str) -> None:
        """Type ``text`` into the prompt that is about to open."""
        await self.until(lambda: isinstance(self.screen, PromptDialog))
        self.screen.query_one(Input).value = text
        await self.press("enter")
        await self.until(lambda: not isinstance(self.screen, PromptDialog))

    async def edit(self, text: str) -> None:
        """Save ``text`` in the editor that is about to open."""
        await self.until(lambda: isinstance(self.screen, EditDialog))
        self.screen.query_one(Editor).load_text(text)
        await self.press("ctrl+s")
        await self.until(lambda: not isinstance(self.screen, EditDialog))

    async def choose(self, value: str) -> None:
        """Choose an option of the dialog that is about to open, by its value, name or position; an empty value cancels."""
        await self.until(lambda: isinstance(self.screen, ChoiceDialog))
        dialog = self.screen
        known = [("" if option.value is None else str(option.value), option.name) for option in dialog._options]
        index = next((index for index, names in enumerate(known) if value in names), -1)
        await self.press(*["down"] * (int(value) if index < 0 else index), "enter")
        await self.until(lambda: self.screen is not dialog)

    @property
    def question(self) -> str:
        """The text above the options of the open dialog; empty without one."""
        return self.screen._text if isinstance(self.screen, ChoiceDialog) else ""

    @property
    def notice(self) -> str:
        notice = self.app.notices.current
        return f"{NOTICE_MARKS[notice.kind][0]} {notice.text} {notice.hint}".strip() if notice else ""

    @property
    def undo_key(self) -> str:
        notice = self.app.notices.current
        return self.screen.show_action(notice.undo).key if notice and notice.undo else ""

    @property
    def actions(self) -> list[str]:
        """The words of the footer's actions, shown or not."""
        return [action.label for action in self.screen.shown_actions()]

    @property
    def focus(self) -> str:
        focused = self.screen.focused
        return (focused.id or "") if focused is not None else ""

    def text(self, selector: str) -> str:
        """The text of one panel; empty while it is hidden."""
        panel = self.screen.query_one(selector, Panel)
        if not (panel.is_on_screen or panel.size.height):
            return ""
        rows = panel.render().split("\n", allow_blank=True)
        return "\n".join(row.truncate(panel.size.width).plain for row in rows)  # as the screen clips them

    def words(self, selector: str) -> str:
        """The text of one panel without its line breaks and gaps."""
        return " ".join(self.text(selector).split())

    def head(self, selector: str) -> str:
        """The title and the note of a section, with the bar while it has the focus."""
        return " ".join(self.screen.query_one(selector, Section).head.render().plain.replace("─", " ").split())

    @property
    def screen_text(self) -> str:
        """All of the screen. Ask for a state or one panel instead wherever that is possible."""
        return shown(self.app)


class Gate(threading.Event):
    """Holds up a job of the app, which the driver then does not wait for."""

    waiting = 0
    _lock = threading.Lock()

    def wait(self, timeout: float | None = PATIENCE) -> bool:
        with Gate._lock:
            Gate.waiting += 1
        try:
            return super().wait(timeout)
        finally:
            with Gate._lock:
                Gate.waiting -= 1


def _jobs(app: App[Any]) -> list[Worker[Any]]:
    """The jobs that have not ended, without the one that watches the workspace."""
    return [worker for worker in app.workers if not worker.is_finished and worker.group != "watch"]


async def wait_for_messages(_min_sleep: float = 0.0, _max_sleep: float = 0.0) -> None:
    """Wait until the jobs in threads have ended, and every widget has handled its messages. A picture then shows their results.

    Textual's own wait for an idle process takes 40 ms per key or more, and up to two seconds while a thread computes.
    """
    app = active_app.get()
    give_up = time.monotonic() + PATIENCE
    while True:
        await wait_for_widgets(app)
        if not app.is_running or not _is_busy(app):
            return
        while app.is_running and _is_busy(app):
            assert time.monotonic() < give_up, f"still running: {_jobs(app)}"
            await asyncio.sleep(0.002)


def _is_busy(app: App[Any]) -> bool:
    keys = isinstance(app, OrderedKeys) and (app._current is not None or (app._typed and app._hold is None))
    return bool(keys) or len(_jobs(app)) > Gate.waiting


async def wait_for_widgets(app: App[Any]) -> None:
    """Wait until the app and the widgets on its screen have handled their messages, and are waiting for others.

    Textual's own wait sends a message to each of them, which is most of what a test would compute.
    """
    give_up, turns, idle = time.monotonic() + PATIENCE, 0, 0
    while idle < 4 and app.is_running and not app._exception_event.is_set():  # a message may take some turns to arrive
        pump = next((one for one in (app, *app.screen.walk_children(with_self=True)) if not _is_idle(one)), None)
        assert time.monotonic() < give_up, f"still handling its messages: {pump}"
        turns, idle = turns + 1, idle + 1 if pump is None else 0
        await asyncio.sleep(0 if turns < 50 else 0.001)


def _is_idle(pump: MessagePump) -> bool:
    queue = pump._message_queue
    return pump._closing or not pump._task or bool(queue.empty() and queue.ready_event._waiters)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Opening:
    """How the fixture ``room`` opens the app: a module has one as ``ROOM``, of which the mark ``opens`` replaces fields for a test."""

    mode: str
    stage: Callable[[Shop], object] = lambda shop: None  # prepares the workspace
    settle: Callable[[RoomDriver], Awaitable[object]] | None = None  # waits until the room can be used
    size: tuple[int, int] = WIDE


opens = pytest.mark.opens


@asynccontextmanager
async def drive(app: MlxtuneApp, mode: str, size: tuple[int, int] = WIDE) -> AsyncIterator[RoomDriver]:
    async with app.run_test(size=size) as pilot:
        if app.current_mode != mode:
            await pilot.press(ROOMS[mode].key)
        driver = RoomDriver(app, pilot)
        await driver.until(lambda: driver.mode == mode)
        yield driver
