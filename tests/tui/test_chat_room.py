"""Chat against a fake client: what is sent, what is drawn while it streams, and every action."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from mlxtune.core.errors import MachineError
from mlxtune.evaluation.contract import Contract
from mlxtune.recipe import EvaluationSection
from mlxtune.runs.locks import accelerator_lease
from mlxtune.serving.protocol import Done, Event, Failed, Piece, Ready
from mlxtune.tui.rooms.chat import render
from mlxtune.tui.rooms.chat.service import AdapterOption, ChatService
from mlxtune.tui.widgets import EditDialog

from .conftest import loaded_shop
from .driver import Opening, RoomDriver, opens, picture_sizes
from .evaluated import base, evaluation, tuned
from .stage import Shop
from .test_adapters_room import adapter, move_to, stock

pytestmark = pytest.mark.slow
ROOM = Opening("chat", Shop.recipe)

READY = Ready("smollm2-135m", "f" * 64, "4-bit on Metal", 2048, 1.0, 16)
BEST = "20261124-1412-support-json"


class FakeClient:
    """Stands in for the client of the model's process. Tests send the events."""

    instances: list[FakeClient]

    def __init__(self, base: str, workspace: Any, *, share_accelerator: bool, on_event: Callable[[Event], None], **_: Any) -> None:
        self.base, self.share_accelerator, self.send, self.closed = base, share_accelerator, on_event, False
        self.questions: list[tuple[str, str, Callable[[Event], None]]] = []
        self.conversations: list[Any] = []
        self.cancelled: list[int] = []
        FakeClient.instances.append(self)

    def ask(self, messages: Any, *, adapter: str = "", on_event: Callable[[Event], None], **_: Any) -> Any:
        index = len(self.questions)
        self.conversations.append(messages)
        self.questions.append((messages[-1].content, adapter, on_event))

        class Answer:
            @staticmethod
            def cancel() -> None:
                self.cancelled.append(index)

        return Answer

    def finish(self, index: int, text: str, ended: str = "stop", reasoning: str = "") -> None:
        """Stream ``reasoning`` and ``text`` as the whole answer to a question."""
        send = self.questions[index][2]
        if reasoning:
            send(Piece(str(index), reasoning, reasoning=True))
        send(Piece(str(index), text))
        send(Done(str(index), ended, 40, 12, 7, 0, 0.0, 0.1, 0.5))  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    FakeClient.instances = []
    service = "mlxtune.tui.rooms.chat.service"
    monkeypatch.setattr(f"{service}.Client", FakeClient)
    monkeypatch.setattr(f"{service}.is_local", lambda *_, **__: True)
    monkeypatch.setattr(f"{service}.compatible_adapters", lambda *_: [AdapterOption("", "support-json-2", "LoRA 8")])
    return FakeClient.instances


def chat(room: RoomDriver) -> ChatService:
    service: ChatService = room.screen.chat
    return service


def field(room: RoomDriver) -> Input:
    return room.screen.query_one("#chat-field", Input)


def transcript(room: RoomDriver) -> str:
    return room.text("#chat-transcript")


async def load(room: RoomDriver, clients: list[FakeClient]) -> FakeClient:
    await room.until(lambda: "No model loaded." in room.text("#invite"))
    await room.press("enter", until=lambda: bool(clients))
    clients[0].send(READY)
    await room.until(lambda: room.focus == "chat-field")
    return clients[0]


async def ask(room: RoomDriver, client: FakeClient, text: str, *answers: str) -> None:
    first = len(client.questions)
    await room.type(text)
    await room.press("enter", until=lambda: len(client.questions) == first + len(answers))
    for index, answer in enumerate(answers, first):
        client.finish(index, answer)
    await room.until(lambda: not chat(room).streaming and answers[-1][:20] in transcript(room))


async def test_a_question_is_answered_and_the_process_ends_with_the_app(shop, open_room, clients):
    shop.recipe()
    async with open_room("chat") as room:
        client = await load(room, clients)
        await ask(room, client, "Where is it?", "On its way.")
        rows = [row.strip() for row in transcript(room).splitlines() if row.strip()]
        assert rows == [
            "○ user", "Where is it?", "● base", "On its way.", "40 prompt tokens (12 cached), 7 generated, 15 tokens/s",
        ]  # fmt: skip
    assert client.closed


async def test_a_question_typed_while_the_model_loads_is_sent_at_once(room, clients):
    await room.until(lambda: "No model loaded." in room.text("#invite"))
    await room.press_quickly("enter", *"be", "enter")
    await room.until(lambda: bool(clients) and [question for question, *_ in clients[0].questions] == ["be"])
    assert chat(room).state == "loading"
    await room.until(lambda: room.text("#foot").split("F1")[0].split() == ["esc", "leave"])
    await room.press_quickly(*"so", "enter")
    await room.until_notice("! The last question is not answered yet.")
    assert field(room).value == "so"
    clients[0].send(READY)
    clients[0].finish(0, "On its way.")
    await room.until(lambda: "On its way." in transcript(room) and not room.notice)
    await room.until(lambda: room.text("#foot").split("F1")[0].split() == ["enter", "send", "esc", "leave"])
    await room.press("enter", until=lambda: [question for question, *_ in clients[0].questions] == ["be", "so"])
    clients[0].finish(1, "Sooner.")
    await room.until(lambda: "Sooner." in transcript(room) and not room.notice)
    await room.press("escape", until=lambda: "enter write" in room.text("#foot"))


@opens(stage=lambda shop: None)
async def test_an_answer_stops_when_the_model_is_unloaded(room, clients, monkeypatch):
    def close(client: FakeClient) -> None:
        client.questions[0][2](Failed("0", MachineError("The model process was closed.")))

    monkeypatch.setattr(FakeClient, "close", close)
    client = await load(room, clients)
    await room.press(*"so", "enter", until=lambda: bool(client.questions))
    client.questions[0][2](Piece("0", "On its"))
    await room.press("escape", "x", until=lambda: "Stopped: the model was unloaded." in transcript(room))
    assert "No model loaded." in transcript(room)
    assert "enter load smollm2-135m" in transcript(room)
    assert "On its" in transcript(room)
    assert "✗" not in transcript(room)
    assert chat(room).state == "idle"


@pytest.mark.parametrize("is_answering", [False, True])
async def test_starting_a_run_unloads_an_idle_model(clients, room, monkeypatch, is_answering):
    recipe = room.staged
    closed: list[bool] = []
    monkeypatch.setattr("mlxtune.workspace.control.train", lambda *_: closed.append(clients[0].closed))
    client, service = await load(room, clients), chat(room)
    if is_answering:
        await room.press(*"so", "enter", until=lambda: service.streaming)
    else:
        await ask(room, client, "Where is it?", "On its way.")
    with accelerator_lease("chat", Path("shop")):  # as the model's process does
        if is_answering:
            with pytest.raises(MachineError, match="in use by a chat or server"):
                room.app.runs.require_accelerator()
        else:
            room.app.runs.require_accelerator()
    room.app.runs.start_run(recipe)
    await room.until(lambda: closed == [not is_answering])
    assert service.state == ("ready" if is_answering else "idle")
    assert len(service.exchanges) == 1


async def test_adapters_are_switched_and_base_and_adapter_answer_side_by_side(room, clients):
    client = await load(room, clients)
    await ask(room, client, "Where is it?", "On its way.")
    await room.press("escape", "o", choose="1", until=lambda: chat(room).adapter == "support-json-2")
    await room.press("b")
    assert "side by side with the base" in room.head("#chat-talk")
    await room.press("enter")
    await ask(room, client, "And now?", "The base says this.", "The adapter says that.")
    assert [name for _, name, _ in client.questions] == ["", "", "support-json-2"]
    heads = next(row for row in transcript(room).splitlines() if "● base" in row and "support-json-2" in row)
    assert heads.index("● base, having read the answers above") < heads.index("● support-json-2")
    assert chat(room).last_answer == "The adapter says that.", "the adapter's answer continues the conversation"


async def test_b_asks_the_base_the_last_question_as_it_was_asked(room, clients):
    client = await load(room, clients)
    chat(room).use(AdapterOption("", "support-json-2"))
    await ask(room, client, "Where is it?", "On its way.")
    await ask(room, client, "And now?", "In the shop.")
    await room.press("escape", "b")
    assert client.questions[2][:2] == ("And now?", "")
    assert [turn.content for turn in client.conversations[2]] == ["Where is it?", "On its way.", "And now?"]
    client.finish(2, "The base says this.")
    await room.until(lambda: "The base says this." in transcript(room))
    assert transcript(room).index("The base says this.") < transcript(room).index("In the shop.")
    assert chat(room).last_answer == "In the shop.", "the adapter's answer stays in the conversation"
    await room.press("b", "b")
    assert len(client.questions) == 3, "both have answered"
    await room.press("u")
    assert [turn.content for turn in chat(room).session.turns] == ["Where is it?", "On its way."]


async def test_b_leaves_an_answer_in_progress_alone(room, clients):
    client = await load(room, clients)
    chat(room).use(AdapterOption("", "support-json-2"))
    await room.type("Where is it?")
    await room.press("enter", "escape", "b", notice="· The base answers your next question, too.")
    assert [name for _, name, _ in client.questions] == ["support-json-2"]


async def test_an_unchanged_answer_is_saved_as_a_row_and_an_edited_one_as_a_pair(shop, clients, open_room):
    shop.recipe()
    rows, pairs = (shop.folder / "data" / name for name in ("chat.jsonl", "chat-pairs.jsonl"))
    async with open_room("chat") as room:
        client = await load(room, clients)
        await ask(room, client, "Where is it?", "On its way")
        await room.press("escape", "w")
        await room.edit("On its way")
        await room.until_notice("✓ Added a row to data/chat.jsonl.")
        assert not pairs.exists()
        await room.press("w")
        await room.edit("On its way now")
        await room.until(pairs.exists)
        pair = json.loads(pairs.read_text())
        assert (pair["chosen"], pair["rejected"]) == ("On its way now", "On its way")
        assert len(rows.read_text().splitlines()) == 2


async def test_a_question_is_undone_a_stream_stopped_and_the_conversation_reset(room, clients):
    client = await load(room, clients)
    await ask(room, client, "Where is it?", "On its way.")
    await room.press("escape", "u", until=lambda: not chat(room).exchanges)
    assert room.screen.query_one("#chat-field").value == "Where is it?"
    await room.press("e")
    await room.edit("Be brief.")
    await room.until(lambda: "◇ system" in transcript(room))
    await room.press("enter", "enter", until=lambda: len(client.questions) == 2)
    await room.press("escape", until=lambda: room.actions[0] == "stop")
    await room.press("s", until=lambda: client.cancelled == [1])
    client.finish(1, "It", "cancelled")
    await room.until(lambda: "tokens/s, stopped" in transcript(room))
    await room.press("n", until=lambda: "Ask a question." in transcript(room))
    await room.press("u", until=lambda: "tokens/s, stopped" in transcript(room) and len(chat(room).session.turns) == 2)
    await room.press("n", until=lambda: "Ask a question." in transcript(room))
    await room.press("x", until=lambda: client.closed)


async def test_a_process_that_crashes_is_reported_and_can_be_restarted(room, clients):
    client = await load(room, clients)
    client.send(Failed("", MachineError("The model's process ended: killed.", hint="Start it again.")))
    await room.until(lambda: "✗ The model's process ended: killed." in room.text("#invite"))
    assert "Start it again." in room.text("#invite")
    assert room.actions[0] == "load"
    assert room.focus == "chat-field"
    await room.press("escape", until=lambda: not field(room).display)
    await room.press("enter", until=lambda: len(clients) == 2)


async def test_what_is_typed_stays_in_the_field_if_the_model_cannot_be_loaded(room, clients):
    await room.until(lambda: "No model loaded." in room.text("#invite"))
    await room.press_quickly("enter", *"Wo ")
    await room.until(lambda: room.focus == "chat-field")
    clients[0].send(Failed("", MachineError("This machine is in use by a chat or server.")))
    await room.until(lambda: "✗ This machine is in use by a chat or server." in room.text("#invite"))
    await room.press_quickly(*"THE?")
    await room.pilot.pause()
    assert room.mode == "chat"
    assert field(room).value == "Wo THE?"
    await room.press("enter", until=lambda: len(clients) == 2 and chat(room).state == "loading")
    await room.press("enter", until=lambda: [question for question, *_ in clients[1].questions] == ["Wo THE?"])


async def test_loading_beside_a_server_asks_first(room, clients):
    await room.until(lambda: "No model loaded." in room.text("#invite"))
    with accelerator_lease("chat", Path("shop")):
        await room.press("enter", until=lambda: "This machine is in use by a chat or server in shop" in room.question)
        await room.choose("")
        assert not clients
        await room.press("enter", choose="share_accelerator", until=lambda: bool(clients))
    assert clients[0].share_accelerator


@opens(stage=loaded_shop)
async def test_loading_during_a_run_asks_first(room, clients):
    await room.until(lambda: "is using this machine" in room.text("#invite"))
    await room.press("enter", choose="")
    assert not clients, "the first option is the safe one"
    await room.press("enter", choose="share_accelerator", until=lambda: bool(clients))
    assert clients[0].share_accelerator


async def test_enter_loads_the_best_adapter_and_b_the_base_alone(shop, clients, open_room):
    shop.recipe()
    adapter(shop.folder / "adapters" / "tone")
    facts = adapter(shop.folder / "runs" / BEST / "adapter") / "mlxtune.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"system": "Answer in JSON."}))
    async with open_room("chat") as room:
        await room.until(lambda: "is the newest adapter for smollm2-135m." in room.text("#invite"))
        evaluation(shop, arms={"base": base, "tuned": tuned}, run=BEST)
        await room.observe(shop.snapshot())
        await room.until(lambda: f"{BEST} is the best adapter so far." in room.text("#invite"))
        assert f"enter load {BEST}" in room.text("#invite")
        assert "b load smollm2-135m alone" in room.text("#invite")
        await room.press("enter", until=lambda: bool(clients))
        clients[0].send(READY)
        await room.until(lambda: chat(room).adapter == BEST and room.focus == "chat-field")
        assert chat(room).session.system == "Answer in JSON.", "the prompt of its training rows"
        await room.press("escape", "x", until=lambda: chat(room).state == "idle" and not room.app.jobs.busy)
        await room.press("b", until=lambda: len(clients) == 2)
        assert chat(room).adapter == ""


async def use(room: RoomDriver, name: str) -> None:
    await room.press("A", until=lambda: name in room.text("#adapters-list"))
    await move_to(room, name)
    await room.press("o")


async def test_an_adapter_chosen_during_a_run_is_asked_about_once(loaded, clients, open_room):
    adapter(loaded.folder / "adapters" / "tone")
    async with open_room("adapters") as room:
        await use(room, "tone")
        await room.press(choose="", until=lambda: "enter load tone" in room.text("#invite"))
        await room.pilot.pause()
        assert room.mode == "chat", "waiting is an answer"
        assert not clients


@opens(mode="adapters", stage=stock)
async def test_a_chosen_adapter_is_loaded_once_and_again_only_after_its_process_ended(room, clients):
    await use(room, "tone")
    await room.until(lambda: len(clients) == 1)
    clients[0].send(READY)
    await room.until(lambda: room.focus == "chat-field")
    assert room.screen._default.name == "tone"
    await room.press("escape")
    await use(room, "tone")
    await room.pilot.pause()
    assert len(clients) == 1, "already loaded"
    await room.press("x", until=lambda: chat(room).state == "idle" and not room.app.jobs.busy)
    await room.press("f1", "escape")
    await room.pilot.pause()
    assert len(clients) == 1, "it was ended on purpose"
    await use(room, "tone")
    await room.until(lambda: len(clients) == 2)


async def test_a_system_prompt_is_shown_safely_and_stored_unchanged(clients, room):
    system = "Be\x1b]0;owned\x07 brief.\n\tAlways."
    client = await load(room, clients)
    chat(room).session.set_system(system)
    await ask(room, client, "Where is it?", "The parcel left today.\tNow.")
    assert not set(room.screen_text) & set("\x1b\x07\t")
    assert "    Always." in transcript(room)
    await room.press("escape", "e", until=lambda: isinstance(room.screen, EditDialog) and "    Always." in room.screen_text)
    assert not set(room.screen_text) & set("\x1b\x07\t")
    await room.type(" Always!")
    await room.press("ctrl+s", mode="chat")
    assert chat(room).session.system == f"{system} Always!"
    await room.press("e", until=lambda: isinstance(room.screen, EditDialog))
    await room.type("No.")
    await room.press("escape", mode="chat")
    assert chat(room).session.system == f"{system} Always!"


def test_reasoning_is_drawn_before_the_answer_and_kept_apart_from_it(shop, clients):
    chat = ChatService(shop.folder, lambda: None)
    chat.start("smollm2-135m")
    chat.ask("Ready?")
    clients[0].finish(0, "Yes.", reasoning="Am I?\nI am.\n")
    rows = [row.plain.strip() for row in render.transcript(chat, None, "", 60)]
    assert rows[rows.index("Am I?") :][:3] == ["Am I?", "I am.", "Yes."]
    assert (chat.last_answer, chat.session.turns[-1].extra) == ("Yes.", {"reasoning_content": "Am I?\nI am."})


def test_every_finished_answer_is_checked_against_the_contract(shop, clients):
    chat = ChatService(shop.folder, lambda: None)
    chat.contract = Contract(EvaluationSection(forbid=("Northpeak",)))
    chat.start("smollm2-135m")
    for number, answer in enumerate(("A tent.", "A tent by Northpeak.")):
        chat.ask("What is it?")
        clients[0].finish(number, answer)
    rows = [row.plain.strip() for row in render.transcript(chat, None, "", 60)]
    assert [row for row in rows if "contract" in row] == ["✓ meets the contract", "✗ fails the contract: it contains “Northpeak”"]


def test_a_conversation_does_not_keep_the_process_that_answered(shop, clients):
    service = ChatService(shop.folder, lambda: None)
    service.start("smollm2-135m")
    service.ask("Where is it?")
    clients[0].finish(0, "On its way.")
    service.close()
    client = weakref.ref(clients.pop())
    gc.collect()
    assert service.exchanges[0].replies[0].text == "On its way."
    assert client() is None


def test_control_characters_of_an_answer_are_removed(shop, clients):
    service = ChatService(shop.folder, lambda: None)
    service.start("smollm2-135m")
    service.ask("?")
    clients[0].finish(0, "\x1b[31mred\x07")
    assert not set(service.exchanges[0].replies[0].text) & set("\x1b\x07")


@picture_sizes
def test_picture(shop, clients, picture, size):
    async def side_by_side(room: RoomDriver) -> None:
        client = await load(room, clients)
        room.screen.query_one("#chat-field").cursor_blink = False
        chat(room).use(AdapterOption("", "support-json-2"))
        room.screen.with_base = True
        answer = '{"category": "shipping", "priority": "normal", "answer": "It left Hamburg on Monday."}'
        await ask(room, client, "Where is my parcel?", "Your parcel is on its way to you, I think.", answer)
        await room.press("escape", until=lambda: "side by side" in room.head("#chat-talk"))

    shop.recipe()
    picture(shop, size, "chat", side_by_side)
