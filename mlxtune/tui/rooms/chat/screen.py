"""Chat: talk to a base or an adapter, switch adapters mid-conversation, ask both at once, and save answers as data."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Input

from mlxtune.adapters import library
from mlxtune.core.errors import MachineError
from mlxtune.core.files import file_stamp
from mlxtune.core.text import one_line
from mlxtune.models import bundled
from mlxtune.tui.actions import Action, ShownAction
from mlxtune.tui.notices import Notice
from mlxtune.tui.paths import base_name
from mlxtune.tui.room import Room
from mlxtune.tui.rooms.chat import render, service
from mlxtune.tui.rooms.chat.service import BASE_ALONE, AdapterOption, ChatService
from mlxtune.tui.widgets import ChoiceOption, EditDialog, Invitation, ScrollPanel, Section
from mlxtune.workspace.index import Snapshot

REDRAW_DELAY = 0.06  # seconds between two redraws of a streaming answer
_STILL_ANSWERING = Notice(
    "warning", "The last question is not answered yet.", "Press enter again after the answer, or stop it with esc and s."
)


class ChatRoom(Room):
    """The conversation above an input field. Escape leaves the field, so that letter keys trigger actions."""

    ABOUT = "talk to a model"
    CSS_PATH = "style.tcss"
    SAVED: ClassVar = {"with_base": bool}
    ACTIONS = (
        Action("load", "enter", "load", "load the model", when="offer", command="chat {adapter}"),
        Action("load_base", "b", "base", "the base alone", when="offer.key", command="chat BASE"),
        Action("cancel", "s", "stop", when="chat.streaming", why="Nothing to stop."),
        Action("write", "enter", "write", "the input field", when=lambda room: room.chat.state in ("loading", "ready")),
        Action("switch", "o", "open", "another adapter", when="is_ready",
               command="chat BASE --adapter ADAPTER"),
        Action("both", "b", lambda room: "alone" if room.with_base else "both", "also ask the base",
               when=lambda room: room.is_ready and room.chat.adapter, why="No adapter loaded."),
        Action("save", "w", "save", "save the answer as a training row", when="has_answer",
               why="No answer yet."),
        Action("undo", "u", "undo", "the last question", when="has_answer", why="Nothing to undo."),
        Action("restore", "u", "undo", "the last conversation", when="chat.discarded"),
        Action("system", "e", "system", when="is_ready", command="chat {adapter} --system PROMPT"),
        Action("reset", "n", "new", "a new conversation",
               when=lambda room: room.is_ready and room.chat.exchanges and not room.chat.streaming),
        Action("end", "x", "unload", "unload the model", when=lambda room: room.chat.state not in ("idle", "failed"),
               why="No model loaded."),
        Action("leave", "escape", help="leave the field"),
    )  # fmt: skip

    class Changed(Message):
        """The conversation or the process's state changed."""

    def __init__(self) -> None:
        super().__init__()
        self._chat: ChatService | None = None
        self.with_base = False
        self._redrawing = False
        self._focus_field = False  # once the model is being loaded
        self._loaded_key: str | None = None  # the key passed to the last load, until the adapter is switched
        self._default: AdapterOption | None = None  # the adapter that enter loads; None until it is known
        self._default_inputs: object = None  # the facts that the default was computed from

    def copyable(self) -> tuple[str, str]:
        replies = [reply.text for exchange in self.chat.exchanges for reply in exchange.replies if reply.text]
        return (replies[-1], "the last answer") if replies else ("", "")

    def compose_body(self) -> ComposeResult:
        yield Invitation("Chat")
        yield Section("Chat", ScrollPanel(id="chat-transcript"), classes="fill", id="chat-talk")
        yield Input(compact=True, id="chat-field")

    @property
    def chat(self) -> ChatService:
        if self._chat is None:
            self._chat = ChatService(self.app.workspace, lambda: self.post_message(self.Changed()))
            self.app.runs.chat = self._chat
        return self._chat

    @property
    def is_ready(self) -> bool:
        return self.chat.state == "ready"

    @property
    def has_answer(self) -> bool:
        return self.is_ready and bool(self.chat.last_answer) and not self.chat.streaming

    def on_unmount(self) -> None:
        if self._chat:
            self._chat.close()

    def draw(self, snapshot: Snapshot) -> None:
        chat = self.chat
        unloaded = chat.state in ("idle", "failed")
        if unloaded:
            self._update_default(snapshot)
        empty = unloaded and not chat.exchanges
        field = self.query_one("#chat-field", Input)
        field.placeholder = "press enter to load the model again" if chat.state == "failed" else "ask, then press enter"
        # After a failure it stays while it has the focus: what is being typed must not act as keys
        field.display = not unloaded or (chat.state == "failed" and self.focused is field)
        default, base = self._default, base_name(self._base)
        if empty:
            error, live = chat.error, snapshot.live
            self.invite(lambda width, _height: render.empty_state(default, base, error, live, width))
            return
        self.invite(None)
        title = one_line(chat.adapter) or (base_name(chat.ready.base) if chat.ready else "Chat")
        self.section("#chat-talk").head.set(title=title, note=render.heading_note(chat, self.with_base))
        self.query_one("#chat-transcript", ScrollPanel).set(lambda width: render.transcript(chat, default, base, width))

    @property
    def _base(self) -> str:
        view = self.app.selection.recipe
        return view.recipe.model.base if view and view.recipe else bundled.DEFAULT.alias

    def _update_default(self, snapshot: Snapshot) -> None:
        workspace, base = self.app.workspace, self._base
        selected, best_run = self.app.adapter or "", snapshot.best.run_id if snapshot.best else ""
        names = file_stamp(workspace / library.FOLDER / library.JOURNAL)  # of the adapters
        inputs = (selected, best_run, base, names, tuple(view.id for view in snapshot.runs if view.status == "finished"))
        if inputs != self._default_inputs:
            self._default_inputs = inputs
            job = partial(service.default_adapter, workspace, selected, best_run, base)
            self.run_job(job, self._show_default, group="offer")

    def _show_default(self, default: AdapterOption) -> None:
        self._default = default

    def on_chat_room_changed(self) -> None:
        if not self._redrawing:
            self._redrawing = True
            self.set_timer(REDRAW_DELAY, self._redraw)

    def _redraw(self) -> None:
        self._redrawing = False
        if self.app.notices.current == _STILL_ANSWERING and not self.chat.streaming:
            self.app.notices.dismiss()
        self.redraw()
        if self._focus_field and self.chat.state in ("loading", "ready") and self.is_current:
            self._focus_field = False
            self.action_write()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        wanted = self.app.adapter_to_load
        if wanted and self.chat.state != "loading":
            self.app.adapter_to_load = None  # one request; declining the dialog must not ask again
            if self.chat.state != "ready" or wanted != self._loaded_key:
                self._confirm_load(wanted)

    @property
    def offer(self) -> AdapterOption | None:
        return self._default if self.chat.state in ("idle", "failed") else None

    def field_actions(self) -> Sequence[ShownAction]:
        word = "load" if self.chat.state == "failed" else "send"
        send = [] if self.chat.streaming else [ShownAction("enter", word, "focused.submit")]
        return [*send, ShownAction("esc", "leave", "screen.leave")]

    def action_load(self) -> None:
        self._confirm_load(self.app.adapter or (self._default.key if self._default else ""))

    def action_load_base(self) -> None:
        self._confirm_load("")

    def _confirm_load(self, key: str) -> None:
        """Load the adapter ``key``, or the base alone. If something else is using the accelerator, ask first."""
        live = self.app.snapshot.live
        if live is None:
            self._load(key, share_accelerator=False)
        else:
            self._ask_to_share(key, f"{live.name} is using this machine.")

    def _ask_to_share(self, key: str, reason: str) -> None:
        options = [
            ChoiceOption(None, "Wait until it ends", "nothing is loaded"),
            ChoiceOption("share_accelerator", "Chat now", "both run slower and share the memory"),
        ]
        title = "Chat while this machine is in use?"
        self.app.choose(title, options, lambda _: self._load(key, share_accelerator=True), reason)

    def _load(self, key: str, *, share_accelerator: bool) -> None:
        view, workspace, base = self.app.selection.recipe, self.app.workspace, self._base
        folder = view.recipe.folder if view and view.recipe else workspace
        self._focus_field = True

        def job() -> str:
            try:
                if not share_accelerator and not self.chat.streaming:
                    self.app.runs.require_accelerator()
            except MachineError as error:
                return error.message
            self.chat.contract = service.contract_of(view.recipe if view else None)
            self.chat.start(*service.resolve(workspace, key, base, folder), share_accelerator=share_accelerator)
            return ""

        def loading(reason: str) -> None:
            if reason:
                self._ask_to_share(key, reason)
                return
            self._loaded_key = key
            self._redraw()

        self.app.jobs.run(job, loading, busy="", holds_keys=True)

    def action_write(self) -> None:
        self.set_focus(self.query_one("#chat-field", Input))

    def action_leave(self) -> None:
        if self.query_one("#chat-field").has_focus:
            self.set_focus(None if self.query_one("#empty").display else self.query_one("#chat-transcript", ScrollPanel))
            self.redraw()
        else:
            self.app.notices.dismiss()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        question = event.value.strip()
        if self.chat.state == "failed":
            self.action_load()
        elif question and self.chat.streaming:
            self.app.notices.show(_STILL_ANSWERING)
        elif question and self.chat.state in ("loading", "ready"):
            self.app.notices.show(None)
            event.input.value = ""
            self.query_one("#chat-transcript", ScrollPanel).action_edge(True)
            self.chat.ask(question, with_base=self.with_base)

    def action_cancel(self) -> None:
        self.chat.cancel()

    def action_switch(self) -> None:
        if ready := self.chat.ready:
            self.run_job(partial(service.compatible_adapters, self.app.workspace, ready.fingerprint), self._choose_adapter)

    def _choose_adapter(self, adapters: Sequence[AdapterOption]) -> None:
        def chosen(adapter: AdapterOption) -> None:
            self._loaded_key = None
            self.chat.use(adapter)
            self.redraw()

        options = [ChoiceOption(BASE_ALONE, "none", "the base alone")]
        options += [ChoiceOption(one, one_line(one.name), one.about) for one in adapters]
        self.app.choose("Answer with which adapter?", options, chosen)

    def action_both(self) -> None:
        self.with_base = not self.with_base
        if self.with_base and self.chat.ask_base():
            self.query_one("#chat-transcript", ScrollPanel).action_edge(True)
        elif self.with_base and self.chat.streaming:
            self.app.notices.show(Notice("note", "The base answers your next question, too."))
        self.redraw()

    def action_save(self) -> None:
        chat = self.chat

        def answered(text: str | None) -> None:
            if text:
                self.app.jobs.run(lambda: Notice("done", chat.save(text)), busy="")

        about = "An edited answer also makes a preference pair."
        self.app.push_screen(EditDialog("Save this answer?", about, chat.last_answer), answered)

    def action_undo(self) -> None:
        if question := self.chat.undo():
            self.query_one("#chat-field", Input).value = question
            self.redraw()

    def action_system(self) -> None:
        session = self.chat.session

        def answered(text: str | None) -> None:
            if text is not None:
                session.set_system(text)
                self.redraw()

        about = "From the next question on."
        self.app.push_screen(EditDialog("System prompt", about, session.system), answered)

    def action_reset(self) -> None:
        self.chat.reset()
        self.app.notices.show(Notice("done", "Started a new conversation.", undo="restore", rooms=("chat",)))

    def action_restore(self) -> None:
        self.chat.restore()
        self.app.notices.show(None)

    def action_end(self) -> None:
        self.app.jobs.run(lambda: self.chat.close(), busy="")
