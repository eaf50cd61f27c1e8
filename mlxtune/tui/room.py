"""The base class of the rooms."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeVar

from textual._compositor import Compositor
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.reactive import Reactive
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, TextArea

from mlxtune.tui.actions import Action, HasActions, ShownAction
from mlxtune.tui.jobs import OnError
from mlxtune.tui.widgets import Draw, ListPanel, NoticeLine, Panel, Section
from mlxtune.tui.widgets.frame import footer, header
from mlxtune.workspace.index import RunView, Snapshot

_MIN_COLUMN = 24  # cells
_STEP = 4  # cells
T = TypeVar("T")
NO_RECIPE = "No recipe yet."
NEW_RUN = Action(
    "new", "n", "new", "a new run", when="app.runs.can_start", why=NO_RECIPE, needs_accelerator=True, command="train {recipe}"
)
OTHER_RECIPE = Action("app.choose_recipe", "o", "open", "another recipe or file", id="other", command="init --from FILE")


class RoomCompositor(Compositor):
    """Textual's compositor, which a repaint of a hidden widget does not confuse.

    Textual 8.2.8 invalidates its map of positions then. The next change of a style rebuilds the map with the change applied, and the
    layout that follows finds no difference: widgets that moved stay where they were drawn.
    """

    def update_widgets(self, widgets: set[Widget]) -> None:
        super().update_widgets(widgets & self.visible_widgets.keys())


class Room(HasActions, Screen[None]):
    """A screen of the app. :meth:`draw` shows the newest snapshot. Rooms read and write files only in jobs."""

    AUTO_FOCUS = "FocusPanel"  # not a text field, which may be hidden
    mode: ClassVar[str]  # the room's key in the table of rooms, and the name of its folder
    ABOUT: ClassVar[str] = ""  # the room's purpose, in a few words
    SIDE: ClassVar[str] = ""  # the selector of the column whose width the user can change
    RUN_KIND: ClassVar[str] = ""  # of the run that the action stop ends
    ALLOW_IN_MAXIMIZED_VIEW = "NoticeLine, #foot"
    SAVED: ClassVar[Mapping[str, type]] = {}  # the attributes that come back after a restart, with their types
    focused: Reactive[Widget | None] = Reactive(None, repaint=False)  # a focused widget repaints itself, not the whole screen

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.GROUP = cls.mode = cls.__name__.removesuffix("Room").lower()
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        super().__init__()
        self._compositor = RoomCompositor()
        self.side_width = 0  # of the column SIDE, if the user has changed it

    def action_stop(self) -> None:
        if view := self.running(self.RUN_KIND):
            self.app.runs.confirm_stop(view)

    def action_new(self) -> None:
        self.app.runs.new_run()

    def action_open_file(self) -> None:
        from mlxtune.tui.open_flow import open_file  # loads numpy, which the first screen does not need

        open_file(self.app)

    def action_new_recipe(self) -> None:
        from mlxtune.tui.open_flow import new_recipe

        new_recipe(self.app)

    @property
    def wide(self) -> bool:
        return self.app.size.width >= 100

    @property
    def tall(self) -> bool:
        return self.app.size.height >= 30

    def compose(self) -> ComposeResult:
        with suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):  # the file may contain anything
            self.restore_state(saved := self.app.saved.of_room(self.mode))
            self.side_width = int(saved.get("side", 0))
        yield Panel(id="top")
        with Vertical(id="room"):
            yield from self.compose_body()
        yield NoticeLine(id="answer")
        yield Panel(id="foot")

    def compose_body(self) -> ComposeResult:
        yield from ()

    def section(self, selector: str) -> Section:
        return self.query_one(selector, Section)

    def invite(self, draw: Draw | None) -> None:
        """Show ``draw`` in the room's :class:`Invitation` in place of its content or, without it, the content."""
        for part in self.query_one("#room").children:  # a rule of style with * would be checked for every widget
            part.set_class((part.id == "empty") == (draw is None), "-away")
        if draw is not None:
            self.query_one("#invite", Panel).update(draw)

    def running(self, kind: str) -> RunView | None:
        """Return the run that uses this machine now, if it is of this kind."""
        live = self.app.snapshot.live
        return live if live and live.run.kind == kind else None

    def field_actions(self) -> Sequence[ShownAction]:
        """Return the actions to show while a text field has the focus. Letters are text there."""
        return self.shown_actions()

    def draw(self, snapshot: Snapshot) -> None:
        """Show the snapshot in the sections."""

    def command_fields(self) -> Mapping[str, str]:
        """Return the fields of a user's command that this room sets, such as ``{"row": "4f0a…"}``."""
        return {}

    def copyable(self) -> tuple[str, str]:
        """Return the text to copy and its description, as in ``("{…}", "the row")``. Both are empty if there is nothing to copy.

        By default, it is the row under the cursor of a list.
        """
        panel = self.focused
        return (panel.text, "the row under the cursor") if isinstance(panel, ListPanel) and panel.count else ("", "")

    def save_state(self) -> Mapping[str, Any]:
        """Return the state to restore after a restart, such as a cursor or a filter, as JSON. Called every second."""
        return {name: getattr(self, name) for name in self.SAVED}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`save_state` returned. Called before widgets exist; errors in ``state`` are ignored."""
        for name, kind in self.SAVED.items():
            if isinstance(state.get(name), kind):
                setattr(self, name, state[name])

    def run_job(
        self, job: Callable[[], T], on_result: Callable[[T], object], on_error: OnError | None = None, *, group: str = "job"
    ) -> None:
        """Run ``job`` in a thread, like :meth:`Jobs.run`, in this room's own group, and redraw. A removed room drops its results."""

        def then(callback: Callable[[Any], object], value: object) -> None:
            if self.is_attached:
                callback(value)
                if self in self.app.screen_stack:
                    self.redraw()

        failed = partial(then, on_error) if on_error else None
        self.app.jobs.run(job, partial(then, on_result), failed, group=f"{self.mode}.{group}")

    def redraw(self) -> None:
        if not (self.is_mounted and self.is_attached and self.app.is_running):  # else its widgets may be gone already
            return
        snapshot, stopping = self.app.snapshot, self.app.runs.stopping
        if self.app.has_read:
            self.draw(snapshot)
        notice = self.app.notices.current  # which drawing may drop
        self.query_one("#top", Panel).update(lambda width, _height: header(snapshot, self.mode, stopping, width))
        undo = self.show_action(notice.undo) if notice and notice.undo and self.mode in notice.rooms else None
        self.query_one(NoticeLine).set(notice, undo)
        self.draw_footer()
        self.refresh_bindings()

    def draw_footer(self) -> None:
        """Draw the possible actions, which may depend on a cursor or on the focus."""
        in_field = isinstance(self.focused, Input | TextArea)  # in which q is a letter, too
        others = [self.app.show_action(name) for name in (*(["copy"] if self.copyable()[0] else []), "quit")]
        actions = self.field_actions() if in_field else [*self.shown_actions(), *others]
        self.query_one("#foot", Panel).update(lambda width, _height: footer(actions, width))

    def _reset_focus(self, widget: Widget, avoiding: list[Widget] | None = None) -> None:
        """Move the focus away from a widget that is hidden or about to be removed.

        Textual calls this some time after it hid the widget. If the widget is on screen again by then, it keeps the focus.
        """
        if avoiding or widget not in self.focus_chain:
            super()._reset_focus(widget, avoiding)

    @property
    def side(self) -> Widget | None:
        """The column whose width can be changed now."""
        side = self.query(self.SIDE).first() if self.SIDE and self.is_mounted and self.wide else None
        return side if side is not None and side.display and self.maximized is None else None

    def resize_side(self, by: int) -> None:
        """Move the divider beside the column ``side`` to the right, or to the left if ``by`` is negative."""
        if (side := self.side) is not None:
            grows, most = by if side.region.x == 0 else -by, self.size.width - _MIN_COLUMN
            width = min(self.side_width, most) or side.size.width + side.gutter.width  # keys may come faster than layouts
            self.side_width = max(_MIN_COLUMN, min(width + grows * _STEP, most))
            self._apply_side_width()

    def _apply_side_width(self) -> None:
        for side in self.query(self.SIDE) if self.SIDE else ():
            if self.side_width and self.wide:
                side.styles.width = min(self.side_width, self.size.width - _MIN_COLUMN)
            else:
                side.styles.clear_rule("width")

    def on_mount(self) -> None:
        self._apply_side_width()
        self.redraw()

    def on_screen_resume(self) -> None:
        self.redraw()

    def on_descendant_focus(self) -> None:
        if self.is_mounted:
            self.draw_footer()

    def on_resize(self) -> None:
        self._apply_side_width()
        self.call_after_refresh(self.redraw)  # panels need their new sizes
