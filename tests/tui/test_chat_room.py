"""The Chat room against a process that is acted: what is asked, what is shown as it comes, and what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mlxtune.core.errors import MachineError
from mlxtune.serving.protocol import Done, Event, Failed, Piece, Ready
from mlxtune.tui.screens.chat import Chat
from mlxtune.tui.talks import Answerer, Talk

from .evaluated import base, evaluation, tuned
from .stage import Shop, footer, observe, shown, until
from .test_adapters_room import adapter, onto, stocked

__all__ = ["stocked"]

READY = Ready("smollm2-135m", "f" * 64, "4-bit on Metal", 2048, 1.0)


class Acted:
    """Stands for the client: answers are told by the test."""

    made: list[Acted]

    def __init__(self, base: str, workspace: Any, *, beside: bool, exact: bool, slots: int, tell: Callable[[Event], None]) -> None:
        self.base, self.beside, self.tell, self.closed = base, beside, tell, False
        self.asked: list[tuple[str, str, Callable[[Event], None]]] = []
        self.cancelled: list[str] = []
        Acted.made.append(self)

    def ask(self, messages: Any, *, adapter: str = "", sampling: Any = None, tell: Callable[[Event], None]) -> Any:
        id = str(len(self.asked))
        self.asked.append((messages[-1].content, adapter, tell))

        class Answer:
            @staticmethod
            def cancel() -> None:
                self.cancelled.append(id)

        return Answer

    def say(self, at: int, text: str, ended: str = "stop") -> None:
        """Let the answer with that number come to its end."""
        hear = self.asked[at][2]
        hear(Piece(str(at), text))
        hear(Done(str(at), ended, 40, 12, 7, 0, 0.0, 0.1, 0.5))  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> list[Acted]:
    Acted.made = []
    monkeypatch.setattr("mlxtune.serving.client.Client", Acted)
    monkeypatch.setattr("mlxtune.models.resolve.here", lambda *_, **__: True)
    monkeypatch.setattr("mlxtune.tui.talks.answerers", lambda *_: [Answerer("support-json-2", "LoRA 8")])
    return Acted.made


async def load(pilot: Any, acted: list[Acted]) -> Acted:
    """Go to the room and have the model loaded."""
    await pilot.press("C")
    await until(pilot, lambda: "Nobody is here to talk to yet." in shown(pilot.app))
    await pilot.press("enter")
    await until(pilot, lambda: bool(acted))
    acted[0].tell(READY)
    await until(pilot, lambda: pilot.app.screen.query_one("#chat-field").has_focus)
    return acted[0]


async def ask(pilot: Any, client: Acted, text: str, *answers: str) -> None:
    """Ask, and let the answers come."""
    before = len(client.asked)
    await pilot.press(*text, "enter")
    await until(pilot, lambda: len(client.asked) == before + len(answers))
    for at, answer in enumerate(answers):
        client.say(before + at, answer)
    await until(pilot, lambda: not pilot.app.screen.talk.writing and answers[-1][:20] in shown(pilot.app))


async def test_a_question_is_asked_and_its_answer_shown(shop: Shop, acted: list[Acted]) -> None:
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        client = await load(pilot, acted)
        await ask(pilot, client, "Where is it?", "On its way.")
        text = shown(app)
        assert "○ user" in text
        assert "● base" in text
        assert "40 read, 12 of them known, 7 written, 15 tokens/s" in text
    assert client.closed, "its memory is free when the app is left"


async def test_escape_leaves_the_field_and_letters_act(shop: Shop, acted: list[Acted]) -> None:
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        client = await load(pilot, acted)
        await ask(pilot, client, "Where is it?", "On its way.")
        await pilot.press("escape", "s")
        await until(pilot, lambda: "Who answers from here on?" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.screen.talk.adapter == "support-json-2")
        await pilot.press("b")
        await until(pilot, lambda: "beside the base" in shown(app))
        await pilot.press("i")
        await ask(pilot, client, "And now?", "The base says this.", "The adapter says that.")
        assert [adapter for _, adapter, _ in client.asked] == ["", "", "support-json-2"]
        assert "● base" in shown(app)
        assert "● support-json-2" in shown(app)
        assert app.screen.talk.last == "The adapter says that.", "the adapter's answer goes on"


async def test_a_mended_answer_is_kept_as_a_row_and_a_pair(shop: Shop, acted: list[Acted]) -> None:
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        client = await load(pilot, acted)
        await ask(pilot, client, "Where is it?", "On its way")
        await pilot.press("escape", "w")
        await until(pilot, lambda: "Keep this answer?" in shown(app))
        await pilot.press("end", *" now", "enter")
        await until(pilot, lambda: (shop.folder / "data" / "chat-pairs.jsonl").exists())
        pair = json.loads((shop.folder / "data" / "chat-pairs.jsonl").read_text())
        assert (pair["chosen"], pair["rejected"]) == ("On its way now", "On its way")


async def test_undo_brings_the_question_back_and_n_begins_again(shop: Shop, acted: list[Acted]) -> None:
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        client = await load(pilot, acted)
        await ask(pilot, client, "Where is it?", "On its way.")
        await pilot.press("escape", "u")
        await until(pilot, lambda: not app.screen.talk.exchanges)
        assert app.screen.query_one("#chat-field").value == "Where is it?"
        await pilot.press("y")
        await until(pilot, lambda: "The system prompt" in shown(app))
        await pilot.press(*"Be brief.", "enter")
        await until(pilot, lambda: "◇ system" in shown(app))
        await pilot.press("i", "enter")
        await until(pilot, lambda: len(client.asked) == 2)
        await pilot.press("escape")
        await until(pilot, lambda: "x stop" in footer(app))
        await pilot.press("x")
        await until(pilot, lambda: client.cancelled == ["1"])
        client.say(1, "It", "cancelled")
        await until(pilot, lambda: ", stopped" in shown(app))
        await pilot.press("n")
        await until(pilot, lambda: "Ask something." in shown(app))
        await pilot.press("e")
        await until(pilot, lambda: client.closed)


async def test_a_process_that_ends_is_told_and_can_be_started_again(shop: Shop, acted: list[Acted]) -> None:
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        client = await load(pilot, acted)
        client.tell(Failed("", "gone", "The model's process ended: killed.", "Start it again.", MachineError.exit_code))
        await until(pilot, lambda: "✗ The model's process ended: killed." in shown(app))
        assert "enter load" in footer(app)
        await pilot.press("enter")
        await until(pilot, lambda: len(acted) == 2)


async def test_beside_a_run_it_asks_first(loaded: Shop, acted: list[Acted]) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("C")
        await until(pilot, lambda: "has the accelerator" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Wait until it has ended" in shown(app))
        await pilot.press("enter")
        assert not acted, "the first choice is the safe one"
        await pilot.press("enter", "down", "enter")
        await until(pilot, lambda: bool(acted))
        assert acted[0].beside


async def test_the_adapter_that_is_proved_best_is_what_enter_loads_and_o_the_base_alone(shop: Shop, acted: list[Acted]) -> None:
    shop.recipe()
    adapter(shop.folder / "adapters" / "tone")
    told = adapter(shop.folder / "runs" / "20261124-1412-support-json" / "adapter") / "mlxtune.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"system": "Answer in JSON."}))
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("C")
        await until(pilot, lambda: "is the newest of smollm2-135m." in shown(app))
        evaluation(shop, arms={"base": base, "tuned": tuned}, run="20261124-1412-support-json")
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "enter load 20261124-1412-support-json" in shown(app))
        assert "20261124-1412-support-json is the best adapter so far." in shown(app)
        assert "o load smollm2-135m alone" in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: bool(acted))
        acted[0].tell(READY)
        await until(pilot, lambda: app.screen.talk.adapter == "20261124-1412-support-json")
        assert app.screen.talk.system == "Answer in JSON.", "it is asked as its rows are"
        await until(pilot, lambda: app.screen.query_one("#chat-field").has_focus)
        await pilot.press("escape", "e")
        await until(pilot, lambda: app.screen.talk.state == "away" and not app.busy)
        await pilot.press("o")
        await until(pilot, lambda: len(acted) == 2)
        assert app.screen.talk.adapter == ""


async def use(pilot: Any, name: str) -> None:
    """Press ``a`` on an adapter in Adapters."""
    await pilot.press("A")
    await until(pilot, lambda: name in shown(pilot.app))
    await onto(pilot, name)
    await pilot.press("a")


async def test_an_adapter_that_was_chosen_beside_a_run_is_asked_about_once(loaded: Shop, acted: list[Acted]) -> None:
    adapter(loaded.folder / "adapters" / "tone")
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await use(pilot, "tone")
        await until(pilot, lambda: "Wait until it has ended" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "enter load tone" in shown(app))
        await pilot.pause(0.1)
        assert isinstance(app.screen, Chat), "to wait is an answer"
        assert not acted


async def test_an_adapter_is_loaded_when_it_is_chosen_and_not_again_when_the_room_comes_back(
    stocked: Shop, acted: list[Acted]
) -> None:
    app = stocked.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await use(pilot, "tone")
        await until(pilot, lambda: len(acted) == 1)
        acted[0].tell(READY)
        await until(pilot, lambda: app.screen.query_one("#chat-field").has_focus)
        assert app.screen._offer.name == "tone", "what is loaded and what is offered are asked for side by side"
        await pilot.press("escape")
        await use(pilot, "tone")
        await pilot.pause(0.1)
        assert len(acted) == 1, "it is here already"
        await pilot.press("e")
        await until(pilot, lambda: app.screen.talk.state == "away" and not app.busy)
        await pilot.press("f1", "escape")
        await pilot.pause(0.1)
        assert len(acted) == 1, "it was ended"
        await use(pilot, "tone")
        await until(pilot, lambda: len(acted) == 2)


async def test_a_system_prompt_is_shown_as_text_and_stays_what_it_was(shop: Shop, acted: list[Acted]) -> None:
    system = "Be\x1b]0;owned\x07 brief.\n\tAlways."
    shop.recipe()
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        client = await load(pilot, acted)
        app.screen.talk.instruct(system)
        await ask(pilot, client, "Where is it?", "The parcel left today.\tNow.")
        assert not set(shown(app)) & set("\x1b\x07\t")
        assert "    Always." in shown(app)
        await pilot.press("escape", "y")
        await until(pilot, lambda: "␊␉Always." in shown(app))
        assert not set(shown(app)) & set("\x1b\x07\t")
        await pilot.press("end", *" Always!", "enter")
        await until(pilot, lambda: isinstance(app.screen, Chat))
        assert app.screen.talk.system == f"{system} Always!"


def test_what_an_answer_says_cannot_reach_the_terminal_raw(shop: Shop, acted: list[Acted]) -> None:
    from mlxtune.tui.talks import Subject

    talk = Talk(shop.folder, lambda: None)
    talk.start(Subject("smollm2-135m"))
    talk.ask("?")
    acted[0].say(0, "\x1b[31mred\x07")
    assert "\x1b" not in talk.exchanges[0].sides[0].text
    assert "\x07" not in talk.exchanges[0].sides[0].text


@pytest.mark.parametrize("size", [(80, 24), (140, 45)], ids=["80x24", "140x45"])
@pytest.mark.parametrize("state", ["empty", "talking", "failed"])
def test_how_it_looks(shop: Shop, acted: list[Acted], snap_compare: Any, size: tuple[int, int], state: str) -> None:
    shop.recipe()

    async def before(pilot: Any) -> None:
        if state == "empty":
            await pilot.press("C")
            await until(pilot, lambda: "Nobody is here" in shown(pilot.app))
            return
        client = await load(pilot, acted)
        pilot.app.screen.query_one("#chat-field").cursor_blink = False
        if state == "failed":
            client.tell(Failed("", "gone", "The model's process ended: killed.", "Start it again.", MachineError.exit_code))
            await until(pilot, lambda: "✗ The model's process" in shown(pilot.app))
            return
        pilot.app.screen.talk.use(Answerer("support-json-2"))
        pilot.app.screen._both = True
        answer = '{"category": "shipping", "priority": "normal", "answer": "It left Hamburg on Monday."}'
        await ask(pilot, client, "Where is my parcel?", "Your parcel is on its way to you, I think.", answer)
        await pilot.press("escape")
        await pilot.pause()

    assert snap_compare(shop.app(), terminal_size=size, run_before=before)
