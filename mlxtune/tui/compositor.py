"""The compositor of the rooms, which repaints every widget that has moved."""

from __future__ import annotations

from textual._compositor import Compositor, CompositorMap, ReflowResult
from textual.geometry import Size
from textual.widget import Widget


class RoomCompositor(Compositor):
    """Textual's compositor, whose layouts are compared with what is on the screen.

    Textual 8.2.8 compares each layout with its map of positions. A repaint inside a hidden container invalidates that map; the next
    change of a style then rebuilds it with the change applied, and the layout that follows finds no difference. The widgets that
    moved stay where they were drawn, and those that appeared get no ``Resize``.
    """

    _on_screen: CompositorMap | None = None

    def reflow(self, parent: Widget, size: Size) -> ReflowResult:
        rebuilt = self._full_map
        if self._on_screen is not None:
            self._full_map = self._on_screen
        result = super().reflow(parent, size)
        self._on_screen = self._full_map
        if self._on_screen is not rebuilt:  # it may have been drawn, after scrolling
            changes = self._on_screen.items() ^ rebuilt.items()
            regions = (geometry.clip.intersection(geometry.region) for _, geometry in changes)
            self._dirty_regions.update(region for region in regions if region)
        return result

    def clear(self) -> None:
        super().clear()
        self._on_screen = None
