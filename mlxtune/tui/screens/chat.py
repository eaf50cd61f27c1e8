"""Chat: talk to a base or an adapter, swap it in the middle, ask both at once, and keep what was said as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from mlxtune.core.text import one_line
from mlxtune.models.bundled import ALIAS
from mlxtune.tui import talks
from mlxtune.tui.names import base_name
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import Snapshot
from mlxtune.tui.talks import Answerer, Offer, Subject, Talk
from mlxtune.tui.widgets import chat_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.frame import Answer, Verb
from mlxtune.tui.widgets.scroll import Scroll
from mlxtune.tui.widgets.section import Section

PAINT = 0.06  # seconds between two pictures of an answer that is being written


class Chat(Room):
    """What was said stands above the field; esc leaves the field, and letters act."""

    ROOM = "Chat"
    ABOUT = "talk to the base or an adapter, and keep what was said as data"
    CSS_PATH = "chat.tcss"
    VERBS = frozenset({"begin", "base", "write", "swap", "both", "halt", "keep", "undo", "system", "reset", "end"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "begin", "load the model", id="chat.begin"),
        Binding("o", "base", "load the base alone", id="chat.base"),
        Binding("i", "write", "write", id="chat.write"),
        Binding("s", "swap", "swap the adapter", id="chat.swap"),
        Binding("b", "both", "base and adapter side by side", id="chat.both"),
        Binding("x", "halt", "stop the answer", id="chat.halt"),
        Binding("w", "keep", "keep as data", id="chat.keep"),
        Binding("u", "undo", "take back", id="chat.undo"),
        Binding("y", "system", "system prompt", id="chat.system"),
        Binding("n", "reset", "new conversation", id="chat.reset"),
        Binding("e", "end", "end the process", id="chat.end"),
        Binding("escape", "leave", "leave the field", id="chat.leave", show=False),
    ]

    class News(Message):
        """Something happened to the conversation."""

    def __init__(self) -> None:
        super().__init__()
        self._talk: Talk | None = None
        self._both = False
        self._painting = False
        self._begun = False  # whether the field should have the focus as soon as the model is there
        self._loaded: str | None = None  # the key of the adapter that was loaded, until another one answers
        self._offer: Offer | None = None  # what enter loads; None until it is known
        self._about: object = None  # what the offer follows from

    def remember(self) -> Mapping[str, Any]:
        return {"both": self._both}

    def recall(self, left: Mapping[str, Any]) -> None:
        self._both = bool(left.get("both"))

    def body(self) -> ComposeResult:
        yield Section("Chat", Draw(id="chat-invite-picture"), lit=True, id="chat-invite")
        yield Section(
            "Chat",
            Scroll(id="chat-said", about="What was said. page up and page down go through it."),
            classes="fill",
            id="chat-talk",
        )
        yield Input(placeholder="ask, and enter", compact=True, id="chat-field")

    @property
    def talk(self) -> Talk:
        if self._talk is None:
            self._talk = Talk(self.desk.workspace, lambda: self.post_message(self.News()))
        return self._talk

    def on_unmount(self) -> None:
        if self._talk:
            self._talk.close()

    def draw(self, snapshot: Snapshot) -> None:
        talk = self.talk
        if talk.state in ("away", "failed"):
            self._look(snapshot)
        away = talk.state in ("away", "failed") and not talk.exchanges
        self.set_class(away, "-empty")
        self.query_one("#chat-field").display = talk.state == "ready"
        if away:
            error, live, offer, base = talk.error, snapshot.live, self._offer, base_name(self._base)
            self.query_one("#chat-invite-picture", Draw).show(
                lambda width, _height: pictures.invite(offer, base, error, live, width)
            )
            return
        self.query_one("#chat-talk", Section).head.set(
            title=one_line(talk.adapter) or (base_name(talk.ready.base) if talk.ready else "Chat"),
            note=pictures.note(talk, self._both),
        )
        self.query_one("#chat-said", Scroll).set(lambda width: pictures.said(talk, width))

    @property
    def _base(self) -> str:
        """The base of the recipe that the rooms are about."""
        view = self.desk.recipe
        return view.recipe.model.base if view and view.recipe else ALIAS

    def _look(self, snapshot: Snapshot) -> None:
        """Ask which adapter should be talked to, when that may have changed."""
        workspace, base = self.desk.workspace, self._base
        asked, best = self.desk.adapter or "", snapshot.best.run if snapshot.best else ""
        about = (asked, best, base, tuple(view.id for view in snapshot.runs if view.status == "finished"))
        if about != self._about:
            self._about = about
            self.fetch(lambda: talks.offer(workspace, asked, best, base), self._offered, group="offer")

    def _offered(self, offer: Offer) -> None:
        self._offer = offer
        self.show()
        self.refresh_bindings()

    def on_chat_news(self) -> None:
        if not self._painting:
            self._painting = True
            self.set_timer(PAINT, self._paint)

    def _paint(self) -> None:
        self._painting = False
        self.show()
        self.refresh_bindings()
        if self._begun and self.talk.state == "ready" and self.is_current:
            self._begun = False
            self.action_write()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        wanted, talk = self.desk.wanted_adapter, self.talk
        if wanted and talk.state != "loading":
            self.desk.wanted_adapter = None  # asked for once: what is answered with waiting is not asked again
            if talk.state != "ready" or wanted != self._loaded:
                self._ask_to_load(wanted)

    # Verbs

    def verbs(self) -> Sequence[Verb]:
        talk, quit_ = self.talk, Verb("q", "quit", "app.quit", "leave; what runs goes on")
        if talk.state in ("away", "failed"):
            if self._offer is None:
                return [quit_]
            base = [Verb("o", "base", "base", "load the base alone")] if self._offer.key else []
            return [Verb("enter", "load", "begin", "load the model in a process of its own"), *base, quit_]
        if talk.state == "loading":
            return [Verb("e", "end", "end", "end the process"), quit_]
        verbs = [Verb("x", "stop", "halt", "stop the answer")] if talk.writing else []
        verbs += [
            Verb("i", "write", "write", "back to the field; esc leaves it"),
            Verb("s", "swap", "swap", "another adapter from here on, or none"),
        ]
        if talk.adapter:
            verbs.append(Verb("b", "alone" if self._both else "both", "both", "ask the base too, side by side"))
        if talk.last and not talk.writing:
            verbs.append(Verb("w", "keep", "keep", "keep it as a training row; mended, as a pair too"))
            verbs.append(Verb("u", "undo", "undo", "take the last question back"))
        verbs.append(Verb("y", "system", "system", "the system prompt"))
        if talk.exchanges and not talk.writing:
            verbs.append(Verb("n", "new", "reset", "begin again"))
        return [*verbs, Verb("e", "end", "end", "end the process: its memory is free then"), quit_]

    def action_begin(self) -> None:
        self._ask_to_load(self.desk.adapter or (self._offer.key if self._offer else ""))

    def action_base(self) -> None:
        self._ask_to_load("")

    def _ask_to_load(self, key: str) -> None:
        """Load the adapter at ``key``, or the base alone; where a run has the accelerator, ask first."""
        snapshot = self.desk.snapshot
        live = snapshot.live if snapshot else None
        if live is None:
            self._load(key, beside=False)
            return
        choices = [
            Choice("", "Wait until it has ended", "nothing is loaded"),
            Choice("beside", "Talk beside it", "both get slower, and share the memory"),
        ]
        title = f"{live.name} has the accelerator."
        self.app.push_screen(Choose(title, "", choices), lambda chosen: self._load(key, beside=True) if chosen else None)

    def _load(self, key: str, *, beside: bool) -> None:
        view, workspace = self.desk.recipe, self.desk.workspace
        base, near = self._base, view.recipe.folder if view and view.recipe else workspace
        self._begun = True

        def job() -> Subject:
            found = talks.subject(workspace, key, base, near)
            self.talk.start(found, beside=beside)
            return found

        def loading(_found: Subject) -> None:
            self._loaded = key
            self._paint()

        self.fetch(job, loading)

    def action_write(self) -> None:
        self.query_one("#chat-field", Input).focus()

    def action_leave(self) -> None:
        if self.query_one("#chat-field").has_focus:
            self.query_one("#chat-said", Scroll).focus()
        else:
            self.app.action_settle()  # type: ignore[attr-defined]

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        question = event.value.strip()
        if question and self.talk.state == "ready" and not self.talk.writing:
            event.input.value = ""
            self.query_one("#chat-said", Scroll).end()
            self.talk.ask(question, both=self._both)

    def action_halt(self) -> None:
        self.talk.stop()

    def action_swap(self) -> None:
        talk, workspace = self.talk, self.desk.workspace
        if talk.ready is None:
            return
        mark = talk.ready.fingerprint

        def found(adapters: list[Answerer]) -> None:
            by_key = {"base": Answerer(""), **{f"adapter {one.name}": one for one in adapters}}

            def chosen(key: str | None) -> None:
                if key:
                    self._loaded = None
                    talk.use(by_key[key])
                    self.show()

            choices = [Choice("base", "none", "the base as it is")]
            choices += [Choice(f"adapter {one.name}", one_line(one.name), one.about) for one in adapters]
            self.app.push_screen(Choose("Who answers from here on?", "", choices), chosen)

        self.fetch(lambda: talks.answerers(workspace, mark), found)

    def action_both(self) -> None:
        self._both = not self._both
        self.show()

    def action_keep(self) -> None:
        talk = self.talk

        def answered(text: str | None) -> None:
            if text:
                self.desk.do("", lambda: Answer("✓", "$success", talk.keep(text)))

        about = "As it is it becomes a training row. Mended, it becomes a row, and a pair: yours chosen, this one rejected."
        self.app.push_screen(Ask("Keep this answer?", about, talk.last, word="keep it"), answered)

    def action_undo(self) -> None:
        if question := self.talk.undo():
            self.query_one("#chat-field", Input).value = question
            self.show()

    def action_system(self) -> None:
        talk = self.talk

        def answered(text: str | None) -> None:
            if text:
                talk.instruct("" if text == "-" else text)
                self.show()

        self.app.push_screen(Ask("The system prompt", "It holds from here on. A dash alone takes it away.", talk.system), answered)

    def action_reset(self) -> None:
        self.talk.reset()
        self.show()

    def action_end(self) -> None:
        self.desk.do("", lambda: self.talk.close())
