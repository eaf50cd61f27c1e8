"""The widget that draws everything in a room by calling a function for a width and height, and a section with a title and content."""

from collections.abc import Callable
from typing import Any

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from mlxtune.tui.render.text import CLICK_ACTION, Part, replace_keys, section_title

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
        self._next: tuple[Size, Content] | None = None  # to paint next, unless the size changes before
        self._layout_pending = False

    def update(self, draw: Draw) -> None:
        """Replace the content. Repaints only if it looks different."""
        self._draw_content = draw
        if not self.size:
            self._layout_pending = True  # hidden or not laid out yet, so the height may change
            self.refresh()
            return
        new, old = self._drawn(self.size.width, self.size.height), self._content
        self._next = None
        if old is None or not new.is_same(old):
            self._next = self.size, new
            self.refresh(layout=old is None or new.plain.count("\n") != old.plain.count("\n"))

    async def on_click(self, event: events.Click) -> None:
        if action := event.style.meta.get(CLICK_ACTION):
            event.stop()
            await self.run_action(str(action))

    def on_resize(self) -> None:
        if self._layout_pending:
            self._layout_pending = False
            self.refresh(layout=True)

    def render(self) -> Content:
        size, content = self._next or (None, Content(""))
        self._next = None
        self._content = content if size == self.size else self._drawn(self.size.width, self.size.height)
        return self._content

    def _drawn(self, width: int, height: int) -> Content:
        """Return the content, with the keys from the user's settings."""
        user_keys: dict[str, str] | None = getattr(self.screen, "user_keys", None)
        content = self._draw_content(width, height)
        return replace_keys(content, user_keys) if user_keys else content

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._drawn(width, 0).plain.count("\n") + 1


def movement(group: str) -> list[BindingType]:
    """Return the bindings that move in a panel; ``group`` begins their IDs. The last two move to its ends."""
    return [
        Binding("up,k", "move(-1)", "up", id=f"{group}.up"),
        Binding("down,j", "move(1)", "down", id=f"{group}.down"),
        Binding("pageup,ctrl+u", "leap(-1)", "page up", id=f"{group}.page-up"),
        Binding("pagedown,ctrl+d", "leap(1)", "page down", id=f"{group}.page-down"),
        Binding("home", "edge(False)", "first row", id=f"{group}.first"),
        Binding("end", "edge(True)", "last row", id=f"{group}.last"),
    ]


class FocusPanel(Panel, can_focus=True):
    """A panel that can have focus and may look different when focused."""

    @property
    def focusable(self) -> bool:
        """Whether it can have the focus now. A screen that comes back would also focus a widget in a hidden section."""
        return super().focusable and all(node.display for node in self.ancestors_with_self)

    def on_focus(self) -> None:
        self.update(self._draw_content)

    on_blur = on_focus

    def scroll_rows(self, by: int) -> None:
        """Scroll with the mouse, if there is anything to scroll."""

    def action_leap(self, pages: int) -> None:
        self.scroll_rows(pages * max(self.size.height - 2, 1))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.scroll_rows(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.scroll_rows(-3)


class SectionTitle(Panel):
    """A title on its rule. ``lit`` adds a bar before it, which marks the focused section."""

    def __init__(self, title: str, lit: bool = False) -> None:
        self._title, self._lit = title, lit
        self._note: Part = ""
        super().__init__(self._draw)

    def set(self, *, title: str | None = None, note: Part | None = None, lit: bool | None = None) -> None:
        """Change the title, the note at the end of the rule, or whether the section is lit."""
        self._title = self._title if title is None else title
        self._note = self._note if note is None else note
        self._lit = self._lit if lit is None else lit
        self.update(self._draw)

    def _draw(self, width: int, _height: int) -> Content:
        return section_title(self._title, width, self._note, self._lit)


class Section(Vertical):
    """A title and its content. The title is lit while a widget in the section has focus."""

    ALLOW_MAXIMIZE = True

    def __init__(self, title: str, *children: Widget, lit: bool = False, **kwargs: Any) -> None:
        self.head = SectionTitle(title, lit)
        self._panels = [child for child in children if isinstance(child, Panel)]
        super().__init__(self.head, *children, **kwargs)

    def show(self, draw: Draw, *, title: str | None = None, note: Part | None = None) -> None:
        self.head.set(title=title, note=note)
        self._panels[0].update(draw)

    def on_descendant_focus(self) -> None:
        """Ask the screen for the focus, because blur and focus events may arrive in either order."""
        focused = self.screen.focused
        self.head.set(lit=focused is not None and self in focused.ancestors)

    on_descendant_blur = on_descendant_focus


class Invitation(Section):
    """What a room shows in place of its content while there is none; see :meth:`Room.invite`."""

    def __init__(self, title: str) -> None:
        super().__init__(title, Panel(id="invite"), lit=True, id="empty", classes="-away")
