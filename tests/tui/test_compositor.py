"""The compositor: every change of the layout reaches the screen, although a hidden widget was repainted before it."""

from typing import Any

import pytest
from textual._compositor import Compositor
from textual._styles_cache import StylesCache
from textual.app import App, ComposeResult
from textual.containers import Vertical
from textual.css.stylesheet import Stylesheet
from textual.geometry import Region
from textual.screen import Screen
from textual.widgets import Static

from mlxtune.tui.room import RoomCompositor


class Line(Static):
    resizes = 0

    def on_resize(self) -> None:
        self.resizes += 1


class Lines(Screen[None]):
    """Three lines, of which the second is in a hidden container."""

    def __init__(self) -> None:
        super().__init__()
        self._compositor = RoomCompositor()

    def compose(self) -> ComposeResult:
        yield Line("first", id="first")
        with Vertical(id="box"):
            yield Line("second", id="second")
        yield Line("third", id="third")

    def on_mount(self) -> None:
        self.query_one("#box").display = False


@pytest.mark.parametrize(("id", "resizes", "last_row"), [("first", 0, 2), ("box", 1, 8)])
async def test_a_change_after_a_repaint_of_a_hidden_widget_is_shown(id, resizes, last_row, monkeypatch):
    painted: list[Region] = []
    render_update = Compositor.render_update

    def record(self: Compositor, *args: Any, **options: Any) -> Any:
        painted.extend(self._dirty_regions)
        return render_update(self, *args, **options)

    app: App[None] = App()
    async with app.run_test(size=(40, 8)) as pilot:
        await app.push_screen(screen := Lines())
        await pilot.pause(0.1)
        screen.query_one("#second").refresh()
        await pilot.pause(0.1)
        monkeypatch.setattr(Compositor, "render_update", record)
        box = screen.query_one(f"#{id}")
        box.display = not box.display
        await pilot.pause(0.1)
        assert {row for region in painted for row in range(region.y, region.bottom)} >= set(range(last_row))
        assert screen.query_one("#second", Line).resizes == resizes


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (App, "_handle_exception"),  # overridden to print one line
        (Screen, "_reset_focus"),  # overridden to keep the focus on a widget that is on screen again
        (Stylesheet(), "_parse_cache"),  # replaced by a larger cache
        (StylesCache.get_inner_outer, "cache_clear"),  # called to free widgets of closed screens
    ],
)
def test_textual_has_the_private_names_that_the_app_uses(owner, name):
    assert hasattr(owner, name)
