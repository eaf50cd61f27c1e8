"""Adapters: the library over one base, where each comes from and what was proved of it; and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from mlxtune.core.text import one_line, plural
from mlxtune.tui import shelf
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.page import Page
from mlxtune.tui.screens.room import Room
from mlxtune.tui.shelf import Shelf, Shown
from mlxtune.tui.snapshot import Snapshot
from mlxtune.tui.widgets import adapter_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Answer, Verb
from mlxtune.tui.widgets.pane import ListPane
from mlxtune.tui.widgets.section import Section

if TYPE_CHECKING:
    from mlxtune.adapters.compare import Compared


class Adapters(Room):
    """The cursor stands on an adapter; what is known of it stands beside the list."""

    ROOM = "Adapters"
    ABOUT = "every adapter of this workspace, and what was proved of it"
    CSS_PATH = "adapters.tcss"
    VERBS = frozenset({"use", "compare", "rename", "tag", "export", "remove", "undo", "detail"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "use", "use it", id="adapters.use"),
        Binding("c", "compare", "compare", id="adapters.compare"),
        Binding("r", "rename", "rename", id="adapters.rename"),
        Binding("t", "tag", "tags", id="adapters.tag"),
        Binding("f", "export", "fuse or export", id="adapters.export"),
        Binding("x", "remove", "remove", id="adapters.remove"),
        Binding("u", "undo", "bring back", id="adapters.undo"),
        Binding("i", "import", "import", id="adapters.import"),
        Binding("d", "detail", "detail", id="adapters.detail"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._shelf: Shelf | None = None
        self._about: object = None  # what the shelf was read for
        self._stood = ""  # the adapter on which the cursor stood, when the app was left or before the shelf was read again

    def remember(self) -> Mapping[str, Any]:
        one = self._one
        return {"key": one.key} if one else {}

    def recall(self, left: Mapping[str, Any]) -> None:
        self._stood = str(left.get("key", ""))

    def body(self) -> ComposeResult:
        yield Section("Adapters", Draw(id="adapters-invite-picture"), lit=True, id="adapters-invite")
        with Horizontal(id="adapters-columns"):
            yield Section(
                "Adapters",
                ListPane(id="adapters-list", about="The adapters of this workspace, newest first: those of finished runs, and those that were let in. enter talks to the one under the cursor."),
                id="adapters-all",
            )  # fmt: skip
            yield Section("Adapter", Draw(id="adapters-detail"), classes="fill", id="adapters-side")

    @property
    def _one(self) -> Shown | None:
        found = self._shelf.adapters if self._shelf else ()
        at = self.query_one("#adapters-list", ListPane).cursor
        return found[at] if at < len(found) else None

    def draw(self, snapshot: Snapshot) -> None:
        about = (
            tuple((view.id, view.status) for view in snapshot.runs if view.status == "finished"),
            tuple(view.id for view in snapshot.evals if view.status == "finished"),
        )
        if about != self._about:
            self._about = about
            self._read()
        found = self._shelf
        self.set_class(found is None or not found.adapters, "-empty")
        if found is None or not found.adapters:
            self.query_one("#adapters-invite-picture", Draw).show(
                lambda width, _height: pictures.invite(found, bool(snapshot.recipes), width)
            )
            return
        cursor = next((at for at, one in enumerate(found.adapters) if one.key == self._stood), None)
        self._stood = ""
        active = self.desk.adapter
        pane = self.query_one("#adapters-list", ListPane)
        pane.set(
            len(found.adapters),
            lambda at, width: pictures.row(found.adapters[at], found.adapters[at].key == active, snapshot.now, width),
            header=pictures.header,
            cursor=cursor,
        )
        self.query_one("#adapters-all", Section).head.set(note=pictures.note(found))
        self.query_one("#adapters-side").display = self.wide
        if one := self._one:
            self.query_one("#adapters-side", Section).head.set(title=one.name, note=one.kind)
            self.query_one("#adapters-detail", Draw).show(lambda width, height: pictures.cut(pictures.detail(one, width), height))

    def _read(self) -> None:
        self.fetch(lambda: shelf.read(self.desk.workspace), self._found)

    def _found(self, found: Shelf) -> None:
        self._stood = one.key if (one := self._one) else self._stood
        self._shelf = found
        self.show()
        self.refresh_bindings()

    # Verbs

    def verbs(self) -> Sequence[Verb]:
        one, verbs = self._one, []
        many = self._shelf is not None and sum(not other.problem for other in self._shelf.adapters) > 1
        if one and not one.problem:
            verbs.append(Verb("a", "chat", "use", "talk to it"))
            if not self.wide:
                verbs.append(Verb("d", "detail", "detail", "all that is known of it"))
            if many:
                verbs.append(Verb("c", "compare", "compare", "hold it against another"))
            if self.desk.snapshot and self.desk.snapshot.live is None and not self.desk.busy:
                verbs.append(Verb("f", "fuse", "export", "work it into its base, for MLX or other programs"))
        if one:
            verbs.append(Verb("x", "remove", "remove", "take it away; u brings it back"))
        if self._shelf and self._shelf.removed:
            verbs.append(Verb("u", "undo", "undo", f"bring {self._shelf.removed[0]} back"))
        if one and not one.problem:
            verbs += [Verb("r", "rename", "rename", "call it something else"), Verb("t", "tag", "tag", "tags, to find it by")]
        return [
            *verbs,
            Verb("i", "import", "import", "let one in from a folder"),
            Verb("q", "quit", "app.quit", "leave; what runs goes on"),
        ]

    def on_list_pane_moved(self, event: ListPane.Moved) -> None:
        event.stop()
        self.show()
        self.refresh_bindings()

    def on_list_pane_chosen(self, event: ListPane.Chosen) -> None:
        event.stop()
        if self.wide:
            self.action_use()
        else:
            self.action_detail()

    def action_use(self) -> None:
        """Make the adapter the one that Chat talks to, and go there if there is such a room."""
        if (one := self._one) and not one.problem:
            self.desk.adapter = self.desk.wanted_adapter = one.key
            self.show()
            if "Chat" in self.desk.rooms:
                self.desk.action_room("chat")

    def action_detail(self) -> None:
        if one := self._one:
            self.app.push_screen(Page(one.name, partial(pictures.detail, one)))

    def action_compare(self) -> None:
        one, others = self._one, [other for other in (self._shelf.adapters if self._shelf else ()) if not other.problem]
        if one is None or one.problem:
            return
        choices = [Choice(other.key, other.name, pictures.brief(other)) for other in others if other.key != one.key]

        def chosen(key: str | None) -> None:
            if key:
                self.fetch(lambda: shelf.compare(self.desk.workspace, key, one.key), self._compared)

        self.app.push_screen(Choose(f"Hold {one.name} against which?", "", choices), chosen)

    def _compared(self, found: Compared) -> None:
        self.app.push_screen(Page("Two adapters", lambda width: pictures.compared(found, width)))

    def action_rename(self) -> None:
        self._ask("What is it called?", lambda one: one.name, shelf.rename, "is called {} now".format)

    def action_tag(self) -> None:
        self._ask("Which tags has it?", lambda one: " ".join(one.tags), shelf.retag, _tagged, empty=True)

    def _ask(self, title: str, value: Any, change: Any, said: Callable[[str], str], *, empty: bool = False) -> None:
        """Ask for a line of text and have it written; what is wrong with it is said where it was asked for."""
        if (one := self._one) is None:
            return

        def answered(text: str | None) -> None:
            if text and text != value(one):
                self._do(lambda: change(self.desk.workspace, one.key, text), f"{one.name} {said(text)}.")

        about = "Words of letters, digits, dots and dashes." + (" A dash before one takes it away." if empty else "")
        self.app.push_screen(Ask(title, about, value(one)), answered)

    def action_export(self) -> None:
        if (one := self._one) is None or one.problem:
            return

        def chosen(form: str | None) -> None:
            if form:
                self.desk.do(f"Starting to write {one.name}.", partial(self._export, one, form))

        self.app.push_screen(
            Choose(
                f"Work {one.name} into its base?",
                "It is written beside, loaded again, and held against the adapter on the held-out rows; only a faithful one is kept.",
                [
                    Choice("", "Leave it as it is", "nothing is written"),
                    *(Choice(form, *said) for form, said in shelf.FORMS.items()),
                ],
            ),
            chosen,
        )

    def _export(self, one: Shown, form: str) -> Answer:
        folder = shelf.export(self.desk.workspace, one.key, form)
        return Answer(
            "●", "$primary", f"{one.name} is being written and checked.", f"mlxtune runs, or {one_line(folder)}, tell how it went."
        )

    def action_remove(self) -> None:
        if (one := self._one) is None:
            return
        children = f" {plural(len(one.children), 'adapter')} went on from it." if one.children else ""
        undo = Verb("u", "undo", "undo", "bring it back")
        self._do(lambda: shelf.remove(self.desk.workspace, one.key), f"{one.name} is taken away.{children}", undo)

    def action_undo(self) -> None:
        if self._shelf and self._shelf.removed:
            name = self._shelf.removed[0]
            self._do(lambda: shelf.restore(self.desk.workspace), f"{name} is back.")

    def action_import(self) -> None:
        def answered(text: str | None) -> None:
            if text:
                folder = Path(text).expanduser()
                self._do(lambda: shelf.let_in(self.desk.workspace, folder), f"{one_line(folder.name)} is here.")

        about = "A folder of mlx-lm's or PEFT's layout. It is checked before it is opened, and copied."
        self.app.push_screen(
            Ask(
                "Which adapter?",
                about,
                "",
                wrong=lambda text: "" if Path(text).expanduser().is_dir() else "There is no such folder.",
            ),
            answered,
        )

    def _do(self, change: Any, said: str, undo: Verb | None = None) -> None:
        """Have the library changed, read it again, and say so."""

        def job() -> Answer:
            change()
            self.app.call_from_thread(self._read)
            return Answer("✓", "$success", said, undo=undo)

        self.desk.do("", job)


def _tagged(words: str) -> str:
    """What becomes of the tags where ``words`` are asked for."""
    tags = shelf.tags(words)
    return f"has the tags {' '.join(tags)}" if tags else "has no tags"
