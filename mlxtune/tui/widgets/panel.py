"""The widget that draws everything in a room. It calls a function that returns content for a width and height."""

from collections.abc import Callable
from typing import Any

from textual import events
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from mlxtune.tui.render.text import CLICK_ACTION, replace_keys

Draw = Callable[[int, int], Content]


class Panel(Widget):
    """Shows ``draw(width, height)`` and is as tall as its content. A height of 0 asks for the full height.

    Textual's Static accepts only content made for one size, and repaints even if the new content is the same.
    """

    ALLOW_SELECT = False

    def __init__(self, draw: Draw = lambda _width, _height: Content(""), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._draw_content = draw
        self._content: Content | None = None  # as painted
        self._layout_pending = False

    def update(self, draw: Draw) -> None:
        """Replace the content. Repaints only if it looks different."""
        self._draw_content = draw
        if not self.size:
            self._layout_pending = True  # hidden or not laid out yet, so the height may change
            self.refresh()
            return
        new, old = self._drawn(self.size.width, self.size.height), self._content
        if old is None or not new.is_same(old):
            self.refresh(layout=old is None or new.plain.count("\n") != old.plain.count("\n"))

    async def on_click(self, event: events.Click) -> None:
        """Run the action of the text below the pointer."""
        if action := event.style.meta.get(CLICK_ACTION):
            event.stop()
            await self.run_action(str(action))

    def on_resize(self) -> None:
        if self._layout_pending:
            self._layout_pending = False
            self.refresh(layout=True)

    def render(self) -> Content:
        self._content = self._drawn(self.size.width, self.size.height)
        return self._content

    def _drawn(self, width: int, height: int) -> Content:
        """Return the content, with the keys from the user's settings."""
        user_keys: dict[str, str] | None = getattr(self.screen, "user_keys", None)
        content = self._draw_content(width, height)
        return replace_keys(content, user_keys) if user_keys else content

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._drawn(width, 0).plain.count("\n") + 1


class FocusPanel(Panel, can_focus=True):
    """A panel that can have focus and may look different when focused. ``about`` is its help text."""

    def __init__(self, *, about: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.about = about

    @property
    def focusable(self) -> bool:
        """Whether it can have the focus now. A screen that comes back would also focus a widget in a hidden section."""
        return super().focusable and all(node.display for node in self.ancestors_with_self)

    def on_focus(self) -> None:
        self.update(self._draw_content)

    on_blur = on_focus

    def scroll_rows(self, by: int) -> None:
        """Scroll with the mouse, if there is anything to scroll."""

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.scroll_rows(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.scroll_rows(-3)
