"""Every key that the footer, the help page and the palette show does something, in a room where that is possible."""

import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from exhaustive import cases
from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.widget import Widget
from textual.widgets import Input, TextArea

from mlxtune.core.errors import ModelError
from mlxtune.evaluation.blind.blind_session import BlindSession
from mlxtune.evaluation.evidence import load_pairs
from mlxtune.planning.plan import PlannedRecipe
from mlxtune.runs.queue import Queue
from mlxtune.tui import keys
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.room import Room
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.rooms.chat.service import AdapterOption
from mlxtune.tui.rooms.plan.service import PlanService
from mlxtune.tui.widgets import ChoiceDialog, EditDialog, PromptDialog

from .budgets import assert_within_budget
from .driver import LARGE, RoomDriver
from .driver import NARROW as SMALL
from .evaluated import evaluating, evaluation
from .planned import RECIPE, FakeProbe, plannable
from .rows_stage import GOOD, Checks, fill, pair, ready, session_of
from .searched import write_search
from .stage import FINISHED, Shop, shown, until
from .test_adapters_room import adapters
from .test_advice_room import ANSWERS, EVIDENCE
from .test_chat_room import FakeClient, ask, clients, load

pytestmark = pytest.mark.slow

__all__ = ["clients"]


@dataclass
class Stage:
    """A room with content: ``sees`` is on screen when it is there, ``then`` continues. ``before`` is pressed before each key."""

    mode: str
    prepare: Callable[[Shop], object] = Shop.recipe
    size: tuple[int, int] = LARGE
    sees: str = ""
    then: Callable[[Any], Awaitable[object]] | None = None
    before: tuple[str, ...] = ()


def trained(shop: Shop) -> None:
    shop.recipe()
    shop.run("20261119-1010-support-json", steps=60, total=60, age=86400, end=FINISHED)
    shop.run("20261122-1010-support-json", steps=50, total=60, age=3600, end=("run.stopped", {"step": 50}))


def training(shop: Shop) -> None:
    trained(shop)
    shop.run("20261124-1412-brand-voice", steps=120, total=300, alive=True, samples=True, pairs=True)


def queued(shop: Shop) -> None:
    shop.recipe()
    for command in ("train", "search"):
        Queue(shop.folder).add((command, "recipes/support-json.toml"))


def searching(shop: Shop) -> None:
    shop.recipe()
    write_search(shop, done=9, alive=True)


def searched(shop: Shop) -> None:
    shop.recipe()
    write_search(shop, id="20261125-0100-support-json", done=3)
    write_search(shop, finished=True)


def two_recipes(shop: Shop) -> None:
    plannable(shop, limit=0.6)
    shop.recipe("another")


def away(shop: Shop) -> None:

    original = PlanService.plan

    def plan(*arguments: Any, fetch: bool) -> PlannedRecipe | None:
        if fetch:
            raise ModelError("There is no such base.")
        return original(*arguments)

    plannable(shop, text=RECIPE.replace("../model", "some/base-4bit"))
    shop.monkeypatch.setattr("mlxtune.models.resolve.is_local", lambda *_, **__: False)
    shop.monkeypatch.setattr(PlanService, "plan", plan)


def with_base(shop: Shop) -> None:
    fill(shop)
    shop.monkeypatch.setattr("mlxtune.models.resolve.is_local", lambda *_, **__: True)


def evaluated(shop: Shop) -> None:
    trained(shop)
    evaluation(shop, "20261124-1400-support-json", age=4000.0)
    evaluation(shop, off_task=2)


def at_work(shop: Shop) -> None:
    evaluation(shop)
    evaluating(shop)


def voting(shop: Shop, opened: bool = False) -> None:
    folder = evaluation(shop)
    with BlindSession(folder, "base+kshot", "tuned", load_pairs(folder, "base+kshot", "tuned"), 20, seed=11) as session:
        while opened and session.current is not None:
            session.vote("a")
        session.vote("a") if not opened else session.reveal()


def exporting(shop: Shop) -> None:
    adapters(shop)
    shop.run("20261124-1700-tone", kind="export", name="tone", alive=True)


def answered(shop: Shop) -> None:
    two_recipes(shop)
    (shop.folder / "advice.json").write_text(json.dumps(ANSWERS))


def some_pairs(shop: Shop) -> None:
    fill(shop, [pair(f"Question {at}?", f"It is {at}.", f"I think that it may be {at}.") for at in range(12)], contract="")


async def checked(pilot: Any) -> None:
    await until(pilot, lambda: ready(RoomDriver(pilot.app, pilot)))


async def filtered(pilot: Any) -> None:
    await checked(pilot)
    session_of(RoomDriver(pilot.app, pilot)).select("status:pending", "row")
    pilot.app.redraw()


async def on_a_set_key(pilot: Any) -> None:
    await pilot.press("home")
    while pilot.app.screen._key.path != "adapter.rank":
        await pilot.press("down")


async def contest(pilot: Any) -> None:
    await pilot.press("enter")
    await until(pilot, lambda: pilot.app.screen._session is not None)


async def failing(pilot: Any) -> None:
    pilot.app.screen.set_focus(pilot.app.screen.query_one("#ev-table"))
    await pilot.press("enter")
    await until(pilot, lambda: pilot.app.screen.rows.filter.cell is None)


async def on_a_finding(pilot: Any) -> None:
    await checked(pilot)
    await pilot.press(*["down"] * 11)


async def on_an_accepted_finding(pilot: Any) -> None:
    await on_a_finding(pilot)
    row = pilot.app.screen.session.row_index
    await pilot.press("a")
    await until(pilot, lambda: pilot.app.screen.session.source.decision(row).status == "accepted")
    await pilot.press(*["up"] * (pilot.app.screen.session.row_index - row))


async def without_recipe(pilot: Any) -> None:
    """Open the rows without their recipe, and wait until another one is proposed as soon as n is pressed."""
    app = pilot.app
    await checked(pilot)
    app.sessions.open_file(session_of(RoomDriver(app, pilot)).ref.path)
    app.redraw()
    await checked(pilot)


async def talking(pilot: Any) -> None:
    room = RoomDriver(pilot.app, pilot)
    client = await load(room, FakeClient.instances)
    await ask(room, client, "Where is it?", "On its way.")
    room.screen.chat.use(AdapterOption("", "support-json-2"))
    await ask(room, client, "And now?", "It is here.")
    await pilot.press("escape", "b")
    client.finish(2, "It is on its way.")  # another b starts no answer that the other keys would wait for


async def writing(pilot: Any) -> None:
    await load(RoomDriver(pilot.app, pilot), FakeClient.instances)
    await pilot.press(*"Where is it?", "enter")


STAGES = (
    Stage("home", trained, sees="Workflow"),
    Stage("data", fill, then=checked),
    Stage("data", with_base, size=SMALL, then=checked),
    Stage("data", fill, then=checked, before=("i",)),
    Stage("data", fill, then=on_a_finding, before=("f",)),
    Stage("data", fill, then=on_an_accepted_finding, before=("f",)),
    Stage("data", fill, then=checked, before=("o",)),
    Stage("data", fill, then=checked, before=("e",)),
    Stage("data", fill, then=checked, before=("a", "u")),
    Stage("data", fill, then=checked, before=("colon",)),
    Stage("data", fill, then=checked, before=("@",)),
    Stage("data", fill, then=without_recipe, before=("n",)),
    Stage("groups", lambda shop: fill(shop, [*GOOD, *GOOD]), then=checked),
    Stage("groups", lambda shop: fill(shop, [*GOOD, *GOOD]), then=checked, before=("x", "u")),
    Stage("groups", lambda shop: fill(shop, [*GOOD, *GOOD]), then=checked, before=("g",)),
    Stage("review", fill, then=checked),
    Stage("review", fill, size=SMALL, then=checked, before=("e",)),
    Stage("review", fill, then=checked, before=("a", "u")),
    Stage("review", fill, then=checked, before=("e", "x", "escape")),  # a draft, which u opens again
    Stage("review", some_pairs, size=SMALL, then=checked),
    Stage("review", fill, then=checked, before=("end", "left", "left", "left")),  # a row without its disclaimer
    Stage("review", fill, then=filtered),
    Stage("plan", two_recipes, sees="does not fit"),
    Stage("plan", two_recipes, sees="does not fit", then=on_a_set_key, before=("minus",)),
    Stage("plan", away, sees="download it"),
    Stage("plan", two_recipes, sees="does not fit", before=("enter",)),
    Stage("plan", two_recipes, sees="does not fit", before=(".",)),
    Stage("train", training, sees="Samples"),
    Stage("train", training, size=SMALL, sees="120"),
    Stage("train", trained, sees="resume"),
    Stage("train", training, before=("L",)),
    Stage("train", training, before=("s",)),
    Stage("train", training, before=("semicolon",)),
    Stage("train", searching, before=("S",)),
    Stage("train", searched, before=("S",)),
    Stage("train", searched, before=("S", "left_square_bracket")),
    Stage("train", queued, before=("Q",)),
    Stage("train", queued, before=("Q", "x")),
    Stage("evaluate", evaluated, sees="1 of 14"),
    Stage("evaluate", evaluated, sees="1 of 14", then=failing),
    Stage("evaluate", at_work, sees="Evaluating"),
    Stage("blind", evaluated, sees="or tuned?"),
    Stage("blind", voting, sees="continue", then=contest),
    Stage("blind", lambda shop: voting(shop, opened=True), sees="see the result", then=contest),
    Stage("adapters", adapters, sees="voice"),
    Stage("adapters", adapters, size=SMALL, sees="voice"),
    Stage("adapters", exporting, sees="voice"),
    Stage("chat", sees="No model loaded."),
    Stage("chat", adapters, sees="load smollm2-135m alone"),
    Stage("chat", then=talking),
    Stage("chat", then=talking, before=("n",)),
    Stage("chat", then=talking, before=("escape", "e")),
    Stage("chat", then=writing),
    Stage("advice", answered, sees="all answered"),
)


class Ran:
    """The actions that ran since the last :meth:`clear`, with the nodes that bind their keys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._found: list[tuple[DOMNode | None, str]] = []
        plain = App.run_action

        async def noted(app: App[Any], action: Any, default_namespace: DOMNode | None = None, *others: Any, **more: Any) -> bool:
            done = await plain(app, action, default_namespace, *others, **more)
            if done:
                self._found.append((default_namespace, str(action)))
            return done

        monkeypatch.setattr(App, "run_action", noted)

    def clear(self) -> None:
        self._found.clear()

    def of(self, kind: keys.Kind, binding: Binding) -> bool:
        return any(isinstance(node, kind) and action == binding.action for node, action in self._found)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    return Ran(monkeypatch)


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch, checks: Checks, clients: list[FakeClient]) -> None:
    for name in (
        "workspace.control.train",
        "workspace.control.resume",
        "runs.launch.start",
        "runs.registry.stop",
        "runs.queue.start_detached",
    ):
        monkeypatch.setattr(f"mlxtune.{name}", lambda *_, **__: None)
    monkeypatch.setattr("mlxtune.tui.rooms.advice.screen.collect", lambda *_: EVIDENCE)
    monkeypatch.setattr("mlxtune.planning.measurements.start_steps", lambda *_, **__: FakeProbe(endless=True))
    monkeypatch.setattr("mlxtune.tui.rooms.blind.screen.DEBOUNCE", 0.0)
    monkeypatch.setattr(MlxtuneApp, "exit", lambda self: None)


async def arrive(pilot: Any, stage: Stage) -> None:
    await pilot.press(ROOMS[stage.mode].key)
    await until(pilot, lambda: stage.sees in shown(pilot.app))
    if stage.then:
        await stage.then(pilot)


async def go(pilot: Any, stage: Stage) -> None:
    """Return to the room: close dialogs, and leave text fields."""
    app = pilot.app
    for _ in range(8):
        if not isinstance(app.screen, Room) or isinstance(app.focused, Input | TextArea):
            await pilot.press("escape")
            await pilot.pause()
    if app.current_mode != stage.mode:
        app.action_room(stage.mode)
        await pilot.pause()
    await until(pilot, lambda: not app.jobs.busy)


async def press(pilot: Any, stage: Stage, pane: Widget | None, key: str) -> None:
    await go(pilot, stage)
    if pane is not None and pane.screen is pilot.app.screen and pane.focusable:
        pilot.app.screen.set_focus(pane)
        await pilot.pause()
    if stage.before:
        await pilot.press(*stage.before)
        await pilot.pause()
    await pilot.press(key)
    await pilot.pause()
    if isinstance(screen := pilot.app.screen, ChoiceDialog | PromptDialog | EditDialog):
        assert_within_budget(screen, screen._heading)


async def press_all(pilot: Any, stage: Stage, ran: Ran, silent: list[tuple[keys.Kind, Binding]]) -> None:
    """Press every key that is bound in a stage, and remove those that did something from ``silent``."""
    app = pilot.app
    await go(pilot, stage)
    panes = [None, *app.screen.focus_chain]
    await press(pilot, stage, None, "f12")  # is not bound
    bound = {kind for node in (app, app.screen, app.focused, *panes) if node for kind in type(node).__mro__}
    for kind, binding in [(kind, binding) for kind, binding in silent if kind in bound]:
        for pane in panes:
            ran.clear()
            await press(pilot, stage, pane, binding.key)
            if ran.of(kind, binding):
                silent.remove((kind, binding))
                break


# The rooms in which keys of shared widgets are pressed.
SHARED = {"widgets.page": "train", "widgets.scroll": "chat"}
SHARED |= dict.fromkeys(("app", "widgets.dialog", "transform_dialog", "open_flow", "commands", "widgets.list"), "data")
BY_ID = {"choice.close": "train", "text.save": "chat", "app.dismiss": "plan"}
BY_ID |= dict.fromkeys(("edit.leave", "edit.start", "edit.end", "app.undo"), "review")


def room_of(kind: keys.Kind, binding: Binding) -> str:
    if binding.id in BY_ID or (binding.id or "").startswith("talk."):
        return BY_ID.get(binding.id or "", "review")
    package, _, rest = kind.__module__.partition(".rooms.")
    return rest.partition(".")[0] if rest else SHARED[package.removeprefix("mlxtune.tui.")]


@pytest.mark.parametrize("mode", cases(ROOMS, "adapters"))
async def test_every_key_does_something(tmp_path, monkeypatch, ran, mode):
    bindings = [(kind, binding) for kind in keys.binding_classes() for binding in keys.own_bindings(kind)]
    silent = [(kind, binding) for kind, binding in bindings if room_of(kind, binding) == mode]
    for number, stage in enumerate(stage for stage in STAGES if stage.mode == mode):
        FakeClient.instances.clear()
        with monkeypatch.context() as patch, ExitStack() as stack:
            shop = Shop(tmp_path / f"shop-{number}", patch, stack)
            stage.prepare(shop)
            async with shop.app().run_test(size=stage.size) as pilot:
                await arrive(pilot, stage)
                await press_all(pilot, stage, ran, silent)
    assert ", ".join(f"{binding.id} ({binding.key})" for _, binding in silent) == ""
