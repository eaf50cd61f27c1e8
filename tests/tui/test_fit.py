"""Nothing that a room draws is cut off without a mark, at any usual size of a terminal."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from exhaustive import cases
from rich.cells import cell_len
from textual.screen import Screen

from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets import Panel

from .driver import NARROW
from .test_adapters_room import adapters
from .test_keys import answered, evaluated, searched, training

pytestmark = pytest.mark.slow

SIZES = [NARROW, (100, 30), (120, 36), (140, 45)]


@pytest.mark.parametrize("prepare", [training, evaluated, adapters, answered, searched], ids=lambda function: function.__name__)
@pytest.mark.parametrize("size", cases(SIZES, "80x24", "100x30", name="{0[0]}x{0[1]}".format))
async def test_every_panel_fits(shop, open_room, prepare, size):
    prepare(shop)
    async with open_room("home", size=size) as room:
        for name in ROOMS:
            await room.app.run_action(f"room('{name}')")
            await room.until(lambda name=name: room.mode == name)
            await room.until(lambda: not room.app.jobs.busy)
            with suppress(AssertionError):  # a result that arrives now is laid out a moment later
                await room.until(lambda: not list(cut_off(room.screen)), 60)
            assert list(cut_off(room.screen)) == []


def cut_off(screen: Screen[object]) -> Iterator[tuple[str, str]]:
    """Yield the ID of each visible panel with a row that is wider or lower than the panel, and the row."""
    for panel in screen.query(Panel):
        if panel._content is None or not panel.size or not all(node.display for node in panel.ancestors_with_self):  # type: ignore[attr-defined]
            continue
        rows = panel._content.plain.split("\n")
        visible = panel.region
        for parent in panel.ancestors:
            visible = visible.intersection(parent.region) if parent is not screen.app else visible  # type: ignore[attr-defined]
        yield from ((str(panel.id), row) for row in rows if cell_len(row.rstrip()) > panel.size.width)
        yield from ((str(panel.id), row) for row in rows[visible.height :] if row.strip())
