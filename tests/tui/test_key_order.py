"""Keys typed quickly act on what the keys before them have brought on screen."""

import asyncio
from collections.abc import Iterable

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Input, Label

from mlxtune.tui import key_order
from mlxtune.tui.key_order import OrderedKeys


class Field(OrderedKeys):
    """An app in which ``o`` focuses a text field, and ``x`` counts. So does tab, but slowly, and even in the field."""

    BINDINGS = [("o", "open", "Open"), ("x", "count", "Count"), Binding("tab", "count_slowly", priority=True)]  # noqa: RUF012
    AUTO_FOCUS = None
    counted = 0

    def compose(self) -> ComposeResult:
        yield Input()
        yield Label("a label")

    def action_open(self) -> None:
        self.query_one(Input).focus()  # Textual changes the focus later

    def action_count(self) -> None:
        self.counted += 1

    async def action_count_slowly(self) -> None:
        await asyncio.sleep(0.01)
        self.action_count()


def _type(app: Field, keys: Iterable[str]) -> None:
    for key in keys:
        app.post_message(events.Key(key, key))


async def test_a_key_goes_where_the_one_before_moved_the_focus():
    app = Field()
    async with app.run_test() as pilot:
        _type(app, "xoxxx")
        await pilot.pause()
        assert app.query_one(Input).value == "xxx"
        assert app.counted == 1


async def test_a_key_that_is_stopped_twice_forwards_one_key_only(monkeypatch):
    app = Field()
    action_count = Field.action_count
    pending: list[int] = []

    def count(self: Field) -> None:
        pending.append(len(self._typed))
        action_count(self)

    monkeypatch.setattr(Field, "action_count", count)
    stop = key_order._TrackedKey.stop
    monkeypatch.setattr(key_order._TrackedKey, "stop", lambda key, on=True: stop(stop(key, on), on))
    async with app.run_test() as pilot:
        _type(app, "xxxx")
        await pilot.pause()
        assert pending == [3, 2, 1, 0]


async def test_a_key_that_nobody_handles_delays_the_next_one_only_for_a_while(monkeypatch):
    monkeypatch.setattr(key_order, "_PATIENCE", 0.05)
    app = Field()
    async with app.run_test() as pilot:
        app.query_one(Input).focus()
        await pilot.pause()

        field = app.query_one(Input)
        on_event = field.on_event

        async def lose(event: events.Event) -> None:
            """Never handle a key, like a widget that is being removed."""
            if not isinstance(event, events.Key):
                await on_event(event)

        monkeypatch.setattr(field, "on_event", lose)
        _type(app, ["a", "tab"])
        while not app.counted:
            await pilot.pause(0.01)
        monkeypatch.undo()
        app.set_focus(None)
        _type(app, "x")
        while app.counted < 2:
            await pilot.pause(0.01)
        assert not app._typed
