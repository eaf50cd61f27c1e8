"""What every room is: the frame, the verbs that are possible now, and one way for news to arrive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.reactive import Reactive
from textual.screen import Screen
from textual.widget import Widget
from textual.worker import get_current_worker

from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.tui import keys
from mlxtune.tui.snapshot import Snapshot
from mlxtune.tui.widgets.frame import AnswerLine, Foot, Toast, Top, Verb, sorry

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp

T = TypeVar("T")


class Room(Screen[None]):
    """A screen of the app. :meth:`show` draws the newest snapshot; nothing in a room reads or writes a file."""

    ROOM: ClassVar[str] = ""
    ABOUT: ClassVar[str] = ""  # what one does there, in a few words
    VERBS: ClassVar[frozenset[str]] = frozenset()  # actions that are possible only while ``verbs()`` names them

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)  # what shows the focus repaints itself, not the whole screen

    @property
    def desk(self) -> MlxtuneApp:
        """The app, as what it is."""
        return cast("MlxtuneApp", self.app)

    @property
    def wide(self) -> bool:
        return self.app.size.width >= 100

    @property
    def tall(self) -> bool:
        return self.app.size.height >= 30

    def compose(self) -> ComposeResult:
        with suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):  # anything may stand in the file
            self.recall(self.desk.left(self.ROOM.lower()))
        yield Top(id="top")
        with Vertical(id="room"):
            yield from self.body()
        yield AnswerLine(id="answer")
        yield Foot(id="foot")
        yield Toast(id="toast")

    def body(self) -> ComposeResult:
        """The room's sections."""
        yield from ()

    def verbs(self) -> Sequence[Verb]:
        """What can be done now, most used first."""
        return ()

    def draw(self, snapshot: Snapshot) -> None:
        """Hand the snapshot to the sections."""

    def remember(self) -> Mapping[str, Any]:
        """What should come back after a restart, such as a cursor or a filter, as a JSON object. It is asked every second: be quick."""
        return {}

    def recall(self, left: Mapping[str, Any]) -> None:
        """Take over what :meth:`remember` returned, before there are any widgets. It may be empty, or broken: errors are passed over."""

    @cached_property
    def names(self) -> dict[str, str]:
        """What is shown for the actions whose keys the user's settings changed."""
        return keys.names(self.desk.changed, {"screen": type(self), "app": type(self.app)}) if self.desk.changed else {}

    def named(self, verbs: Sequence[Verb]) -> list[Verb]:
        """The verbs with the keys that the user's settings give them."""
        return [replace(verb, key=self.names.get(verb.click, verb.key)) for verb in verbs]

    def fetch(
        self,
        job: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[MlxtuneError], None] | None = None,
        *,
        group: str = "fetch",
    ) -> None:
        """Run ``job`` in a thread and hand what it returns to ``done``, here; a newer call of its ``group`` makes an older one's result void.

        A ``MlxtuneError``, or what the disk says, goes to ``failed``, or is shown above the footer.
        """
        self.run_worker(partial(self._fetch, job, done, failed), thread=True, group=group, exclusive=True)

    def _fetch(self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[MlxtuneError], None] | None) -> None:
        worker = get_current_worker()
        try:
            found = job()
        except (MlxtuneError, OSError) as error:
            known = error if isinstance(error, MlxtuneError) else MachineError(one_line(str(error)))
            if not worker.is_cancelled:
                self.app.call_from_thread(failed or self._failed, known)
        else:
            if not worker.is_cancelled:
                self.app.call_from_thread(done, found)

    def _failed(self, error: MlxtuneError) -> None:
        self.desk.reply(sorry(error))

    def show(self) -> None:
        """Draw what the app knows now."""
        if not self.is_mounted:
            return
        snapshot = self.desk.snapshot
        if snapshot is not None:
            self.draw(snapshot)
        self.query_one(Top).set(snapshot, self.ROOM, self.desk.rooms, self.desk.stopping)
        self.query_one(AnswerLine).set(self.desk.answer)
        self.query_one(Foot).set(self.named(self.verbs()))
        self.query_one(Toast).set(self.desk.toast)

    def on_mount(self) -> None:
        self.show()

    def on_screen_resume(self) -> None:
        self.show()

    def on_descendant_focus(self) -> None:
        if self.is_mounted:
            self.query_one(Foot).set(self.named(self.verbs()))  # enter does what the focus stands on

    def on_resize(self) -> None:
        self.call_after_refresh(self.show)  # pictures need their new sizes

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A key of a verb that is impossible now does nothing."""
        return action not in self.VERBS or action in {verb.action for verb in self.verbs()}
