"""A widget that shows a picture: a function from a width and a height to content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual import events
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from mlxtune.tui.draw import CLICK, renamed

Picture = Callable[[int, int], Content]


def blank(_width: int, _height: int) -> Content:
    """No picture yet."""
    return Content("")


class Draw(Widget):
    """Shows what ``picture(width, height)`` returns, and is as tall as that. A height of 0 asks: how tall would you be?"""

    ALLOW_SELECT = False

    def __init__(self, picture: Picture = blank, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._picture = picture
        self._shown: Content | None = None
        self._late = False

    def show(self, picture: Picture) -> None:
        """Replace the picture; repaints only if it looks different."""
        self._picture = picture
        if not self.size:
            self._late = True  # hidden, or not laid out yet: it may need another height then
            self.refresh()
            return
        fresh = self._drawn(self.size.width, self.size.height)
        if self._shown is None or not fresh.is_same(self._shown):
            grown = self._shown is None or fresh.plain.count("\n") != self._shown.plain.count("\n")
            self.refresh(layout=grown)

    async def on_click(self, event: events.Click) -> None:
        """Do what is written under the pointer."""
        if action := event.style.meta.get(CLICK):
            event.stop()
            await self.run_action(str(action))

    def on_resize(self) -> None:
        if self._late:
            self._late = False
            self.refresh(layout=True)

    def render(self) -> Content:
        self._shown = self._drawn(self.size.width, self.size.height)
        return self._shown

    def _drawn(self, width: int, height: int) -> Content:
        """The picture, with keys as the user's settings have them."""
        names: dict[str, str] | None = getattr(self.screen, "names", None)
        shown = self._picture(width, height)
        return renamed(shown, names) if names else shown

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._drawn(width, 0).plain.count("\n") + 1
