import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from keyed_rows import with_keys
from textual.content import Content
from waiting import PATIENCE, wait_until

from mlxtune.core.child_process import quiet
from mlxtune.core.errors import DataError, MachineError
from mlxtune.data import check_cache
from mlxtune.data.check_cache import CheckOutcome
from mlxtune.data.review import ReviewSession
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.models import catalog
from mlxtune.models import resolve as resolving
from mlxtune.planning import measurements
from mlxtune.planning.plan import PlannedRecipe
from mlxtune.present.labels import base_summary
from mlxtune.recipe import DataSection, Length, ModelSection, Recipe, load
from mlxtune.recipe.keys import KEYS
from mlxtune.tui.render.text import cut_rows
from mlxtune.tui.rooms.plan import render
from mlxtune.tui.rooms.plan.screen import PlanRoom, RecipeForm
from mlxtune.tui.rooms.plan.service import PlanService
from mlxtune.tui.widgets import ChoiceDialog, ListPanel, PageScreen

from .driver import NARROW, WIDE, Gate, Opening, RoomDriver, any_size, opens
from .planned import RECIPE, FakeProbe, plannable
from .stage import Shop, shown

pytestmark = pytest.mark.slow


def plan_room(room: RoomDriver) -> PlanRoom:
    screen = room.app.screen_stack[0]
    assert isinstance(screen, PlanRoom)
    return screen


def form(room: RoomDriver) -> RecipeForm:
    form = plan_room(room).form
    assert form is not None
    return form


def verdict(room: RoomDriver) -> str:
    return room.text("#plan-verdict")


async def planned(room: RoomDriver, text: str = "This fits") -> None:
    await room.until(lambda: text in verdict(room))


def planning(expected: str = "This fits", size: tuple[int, int] = WIDE, **recipe: Any) -> pytest.MarkDecorator:
    """Open the room on a recipe that can be planned, and wait until the verdict contains ``expected``."""
    return opens(stage=lambda shop: plannable(shop, **recipe), settle=lambda room: planned(room, expected), size=size)


ROOM = Opening("plan", plannable, planned)


async def select(room: RoomDriver, path: str) -> None:
    keys = [key.path for key in plan_room(room)._keys]
    plan_room(room).query_one("#plan-keys", ListPanel).go(keys.index(path))
    await room.pilot.pause()


def file_of(shop: Shop) -> Path:
    return shop.folder / "recipes" / "support-json.toml"


@planning(size=(140, 45))
async def test_a_base_of_the_catalog_is_described(room):
    await select(room, "model.base")
    await room.press("enter")
    await room.type("mlx-community/gpt-oss-20b-MXFP4-Q8")
    await room.press("enter")
    known = catalog.find("mlx-community/gpt-oss-20b-MXFP4-Q8")
    await room.until(lambda: base_summary(known) in room.words("#plan-detail"))


async def test_enter_edits_in_place_and_the_file_keeps_its_comments(room, shop):
    await select(room, "adapter.rank")
    await room.press("enter", *"32", "enter", notice="✓ rank is now 32.")
    assert file_of(shop).read_text() == RECIPE.replace("rank = 8    #", "rank = 32   #")
    assert "~ 32" in room.text("#plan-keys")
    assert "1 edit saved" in room.head("#plan-form")
    await room.press("enter", *"8", "enter", notice="✓ rank is now 8.")
    assert "~ " not in room.text("#plan-keys"), "it has the value with which it was opened"
    await room.press("u", notice="✓ Edit undone.")
    await room.press("u", until=lambda: file_of(shop).read_text() == RECIPE)
    assert "~ " not in room.text("#plan-keys")
    assert "undo" not in room.actions


async def test_values_are_typed_cancelled_and_copied(room, shop):
    await select(room, "evaluation.prompt")
    await room.press("enter")
    await room.type("Touch HD")
    await room.press("escape", mode="plan")
    assert file_of(shop).read_text() == RECIPE
    await room.press("enter")
    await room.type("Be kind.")
    await room.press("enter", until=lambda: room.notice.split("  ")[0] == "✓ prompt is now Be kind.")
    assert load(file_of(shop)).evaluation.prompt == "Be kind."
    await select(room, "evaluation.length")  # a table is edited as its fields
    await room.press("enter")
    await room.type('max = 60, unit = "words"')
    await room.press("enter", notice='✓ length is now max = 60, unit = "words".')
    assert load(file_of(shop)).evaluation.length == Length(max=60, unit="words")
    await room.press("backspace", notice="✓ length is now empty.")
    assert load(file_of(shop)).evaluation.length == Length()
    await select(room, "training.epochs")
    await room.press("ctrl+y", notice="✓ Copied training.epochs.")
    assert room.app.clipboard == "training.epochs = 2"


async def test_an_invalid_value_is_an_error_and_the_dialog_stays_open(room, shop):
    await select(room, "model.base")
    await room.press("enter", *"two", "enter", until=lambda: "There is no model named two." in room.text("#wrong"))
    await room.press("escape")
    await select(room, "training.learning_rate")
    await room.press("enter", *"fast", "enter")
    await room.until(lambda: 'must be a number, but is "fast"' in room.words("#wrong"))
    assert file_of(shop).read_text() == RECIPE
    await room.press("end", "ctrl+u", *"3e-4", "enter", notice="✓ learning_rate is now 3e-4.")
    assert "learning_rate = 3e-4\n" in file_of(shop).read_text()


async def test_arrows_go_through_choices_plus_and_minus_step_numbers_and_backspace_restores_a_default(room, shop):
    await select(room, "adapter.kind")
    await room.press("right")
    assert load(file_of(shop)).adapter.kind == "dora"
    await room.press("left")
    assert load(file_of(shop)).adapter.kind == "lora"
    await select(room, "training.batch_size")
    await room.press("plus")
    assert load(file_of(shop)).training.batch_size == 16
    await room.press("minus", "minus")
    assert load(file_of(shop)).training.batch_size == 4
    await select(room, "data.source")
    before = file_of(shop).read_bytes()
    await room.press("plus", "left")
    assert file_of(shop).read_bytes() == before, "a path has no next value"
    await select(room, "adapter.rank")
    assert "default" in room.actions
    await room.press("backspace", notice="✓ rank is now 16.")
    assert "rank" not in file_of(shop).read_text()
    assert "default" not in room.actions
    await select(room, "model.base")
    await room.press("backspace")
    assert "base" in file_of(shop).read_text(), "a required key stays"


async def test_the_plan_follows_an_edit_and_rows_are_measured_once(room):
    measured = room.staged
    before = form(room).plan
    assert before is not None
    await select(room, "training.batch_size")
    await room.press("plus", "plus", until=lambda: (plan := form(room).plan) is not None and plan.memory > before.memory)
    assert len(measured) == 1
    await select(room, "data.max_tokens")
    await room.press("minus", until=lambda: len(measured) == 2)


@planning("✗ This does not fit", limit=0.6)
async def test_g_makes_the_recipe_fit_one_change_at_a_time(room, shop):
    await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert room.screen._options[1].name == "Train anyway"
    await room.press("escape", until=lambda: "grad_checkpoint = true" in room.text("#plan-side"))
    assert "33% longer steps" in room.text("#plan-side")
    await room.press("f", notice="✓ grad_checkpoint is now true.")
    assert load(file_of(shop)).training.grad_checkpoint is True
    for _ in range(6):
        await room.until(lambda: plan_room(room)._progress is None)
        await room.pilot.pause()
        if "This does not fit" not in verdict(room):
            break
        await room.press("f")
    await room.until(lambda: "This fits" in verdict(room) or "This is tight" in verdict(room))
    assert "Fits with" not in room.text("#plan-side")
    while "undo" in room.actions:
        await room.press("u")
    assert file_of(shop).read_text() == RECIPE


async def test_t_asks_with_the_verdict_and_its_default_does_nothing(room, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr("mlxtune.workspace.control.train", lambda workspace, recipe: started.append(recipe.name))
    await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert room.screen._heading == "Train support-json?"
    assert room.screen._text.startswith("This fits: ")
    await room.press("enter", mode="plan")
    assert started == []
    await room.press("n", choose="train", until=lambda: started == ["support-json"])
    await room.until(lambda: room.mode == "train")


async def test_rows_that_were_checked_with_another_recipe_are_named(shop, open_room, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr("mlxtune.workspace.control.train", lambda workspace, recipe: started.append(recipe.name))
    plannable(shop)
    source = load(shop.folder / "recipes" / "support-json.toml").source
    check_cache.save(source, CheckOutcome("clean", 14, 0, rules="of another recipe"))
    async with open_room() as room:
        await room.until(lambda: "! Not checked since" in room.text("#plan-side"))
        await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
        assert room.screen._text.startswith("Not checked since the recipe changed. This fits: ")
        await room.press(choose="data", until=lambda: room.mode == "data")
        assert started == []


async def test_while_a_run_is_active_nothing_starts(loaded, open_room):
    plannable(loaded)
    async with open_room() as room:
        assert not {"train", "probe"} & set(room.actions)
        for key in "n.":
            await room.press(key, notice="! The training run of support-json is using this machine.")
            assert room.notice.endswith("or stop it in Train (T, then s).")
            await room.press("escape")
        assert room.mode == "plan"


async def test_after_a_probe_the_time_is_known(room, monkeypatch):
    monkeypatch.setattr(measurements, "start_steps", lambda *_, **__: FakeProbe())
    await room.press(".")
    await planned(room, "measured on this machine")
    assert "measured" in room.text("#plan-side")
    assert "unknown" not in room.text("#plan-side")
    await room.press("g", "end", until=lambda: isinstance(room.screen, PageScreen))
    await room.until(lambda: "break-even" in room.text("#rows"))
    for part in ("rented", "hosted", "calls per month"):
        assert part in room.text("#rows"), part


async def test_a_probe_shows_its_progress_and_s_stops_it(room, monkeypatch):
    monkeypatch.setattr(measurements, "start_steps", lambda *_, **__: FakeProbe(endless=True))
    assert "stop" not in room.actions
    await room.press(".")
    await planned(room, "probe: step 1 of 2 with the largest batch")
    assert "stop" in room.actions
    for key in "n.":
        await room.press(key, notice="! A probe is using this machine: step 1 of 2 with the largest batch.")
    await select(room, "training.batch_size")
    await room.press("minus")  # planned at once, although the probe goes on
    await room.until(lambda: form(room).planned.recipe is form(room).recipe and len(form(room).edits) == 1)
    assert "probe: step 1 of 2" in verdict(room)
    await room.press("s", notice="■ The probe was stopped: nothing was stored.")
    await planned(room, "computed, not measured")
    assert "probe" in room.actions


async def test_leaving_the_app_ends_a_probe(shop, open_room, monkeypatch):
    probe = FakeProbe(endless=True)
    monkeypatch.setattr(measurements, "start_steps", lambda *_, **__: probe)
    plannable(shop)
    async with open_room() as room:
        await room.press(".")
        await planned(room, "probe: step 1 of 2 with the largest batch")
    assert probe.result(lambda what, share: None) is None


async def test_a_failed_probe_is_an_error_and_the_form_stays(room, monkeypatch):
    monkeypatch.setattr(measurements, "start_steps", lambda *_, **__: FakeProbe())
    monkeypatch.setattr(FakeProbe, "result", Mock(side_effect=MachineError("The planning process died: out of memory.")))
    await room.press(".")
    await planned(room, "✗ The planning process died: out of memory.")
    assert "max_tokens" in room.text("#plan-keys")
    await select(room, "training.batch_size")
    await room.press("minus")
    await planned(room)


async def test_unusable_rows_are_an_error(shop, open_room, monkeypatch):
    plannable(shop)
    error = DataError("support.jsonl, line 3: the prompt fills the window.\n  and 2 more", hint="Raise data.max_tokens.")
    monkeypatch.setattr(measurements, "row_lengths", Mock(side_effect=error))
    async with open_room("plan", size=NARROW) as room:
        await planned(room, "✗ support.jsonl, line 3")
        assert "Raise data.max_tokens." in verdict(room)
        assert "costs" not in room.actions


@opens(
    stage=lambda shop: plannable(shop, text=RECIPE.replace("[evaluation]", '[evaluation]\nregression = "none"')),
    settle=None,
    size=NARROW,
)
async def test_missing_off_task_prompts_are_an_error(room):
    await planned(room, "✗ evaluation.regression: there is no file at")


async def test_a_missing_base_is_fetched_only_on_request(shop, open_room, monkeypatch):
    fetched: list[str] = []

    def resolve(base: str, *, fetch: bool = True, **_: Any) -> Any:
        if fetch:
            fetched.append(base)
        return real(str(shop.folder / "model"))

    plannable(shop, text=RECIPE.replace('"../model"', '"some/base-4bit"'))
    real = resolving.resolve
    monkeypatch.setattr(resolving, "resolve", resolve)
    monkeypatch.setattr(resolving, "is_local", lambda base, **_: bool(fetched))
    async with open_room("plan") as room:
        await planned(room, "some/base-4bit is not on this machine yet.")
        assert fetched == []
        assert "download" in room.actions
        await room.press("b")
        await planned(room)
        assert fetched == ["some/base-4bit"]
        assert "download" not in room.actions


async def test_the_size_of_a_missing_base_is_named(shop, open_room, monkeypatch):
    monkeypatch.setattr(resolving, "is_local", lambda base, **_: False)
    monkeypatch.setattr("mlxtune.models.bundled.install.is_ready", lambda model: False)
    plannable(shop, text=RECIPE.replace('"../model"', '"smollm2-135m"'))
    async with open_room("plan") as room:
        await planned(room, "b download it, 88 MB")


async def test_a_base_of_the_catalog_is_planned_before_it_is_fetched(shop, open_room, monkeypatch):
    monkeypatch.setattr("mlxtune.models.bundled.install.is_ready", lambda model: True)
    plannable(shop, text=RECIPE.replace('"../model"', '"mlx-community/Llama-3.2-1B-Instruct-4bit"'))
    async with open_room("plan", size=(140, 45)) as room:
        await planned(room, "base not downloaded: estimated from the catalog")
        assert "download" in room.actions
        assert "probe" not in room.actions


@planning("There is no model named smollm2-135.", text=RECIPE.replace('"../model"', '"smollm2-135"'))
async def test_an_unknown_base_is_an_error_until_the_recipe_is_planned_again(room, monkeypatch):
    assert "Did you mean smollm2-135m?" in verdict(room)
    assert "download" not in room.actions
    gate, plan = Gate(), PlanService.plan
    monkeypatch.setattr(PlanService, "plan", lambda *arguments, **options: (gate.wait(), plan(*arguments, **options))[1])
    await select(room, "training.epochs")
    await room.press("right", until=lambda: "● planning" in verdict(room) and "smollm2" not in verdict(room))
    gate.set()
    await planned(room, "There is no model named smollm2-135.")


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_slow_computation_is_named_and_n_asks_once_it_has_ended(shop, open_room, monkeypatch, leaves):
    plannable(shop)
    gate, row_lengths = Gate(), measurements.row_lengths
    monkeypatch.setattr(measurements, "row_lengths", lambda recipe: (gate.wait(), row_lengths(recipe))[1])
    async with open_room("plan") as room:
        await planned(room, "● measuring the rows")
        assert "max_tokens" in room.text("#plan-keys"), "the form is there at once"
        await room.press(".", notice="! The plan is not ready.")
        await room.press("n", notice="● The plan is not ready. You are asked whether to train as soon as it is.")
        if leaves:
            await room.press("escape", until=lambda: not room.notice)
        gate.set()
        if leaves:
            await planned(room)
            assert "measuring the rows" not in verdict(room)
        await room.until(lambda: not room.app.jobs.busy and ("Train support-json?" in room.screen_text) != leaves)


async def test_changes_by_another_program_are_taken_over(room, shop):
    await select(room, "adapter.rank")
    await room.press("plus")
    file_of(shop).write_text(RECIPE.replace("alpha = 16", "alpha = 99"))
    await room.press("u", notice="✗ support-json.toml has changed")
    await room.observe(shop.snapshot())
    await room.until(lambda: form(room).recipe.adapter.alpha == 99)
    assert "undo" not in room.actions
    file_of(shop).write_text("[[[")
    await room.observe(shop.snapshot())
    await planned(room, "✗ recipes/support-json.toml is not valid TOML")
    assert "Fix the file and save it." in verdict(room)
    assert "edit" not in room.actions
    file_of(shop).write_text(RECIPE)
    await room.observe(shop.snapshot())
    await planned(room)
    await room.until(lambda: room.focus == "plan-keys")


async def test_a_snapshot_older_than_the_last_edit_changes_nothing(room, shop):
    await select(room, "adapter.rank")
    await room.press("plus")
    late = shop.snapshot()
    await room.press("plus")
    await room.observe(late)
    assert (form(room).recipe.adapter.rank, len(form(room).edits)) == (32, 2)
    late = shop.snapshot()
    await room.press("u")
    await room.observe(late)
    assert (form(room).recipe.adapter.rank, len(form(room).edits)) == (16, 1)
    file_of(shop).write_text(RECIPE)
    await room.observe(shop.snapshot())
    assert (form(room).recipe.adapter.rank, len(form(room).edits)) == (8, 0), "another program restored the first version"


async def test_decisions_about_rows_are_planned_again(shop, room):
    measured = room.staged
    assert (len(measured), form(room).plan.train) == (1, 48)
    source = shop.folder / "data" / "support.jsonl"
    trained = split(read_source(source), load(file_of(shop)).data).train[0]
    with ReviewSession(source) as session:
        session.decide("reject", with_keys([trained]))
    await room.observe(shop.snapshot())
    await room.until(lambda: len(measured) == 2 and bool(form(room).plan) and form(room).plan.train == 47)


@opens(stage=lambda shop: (shop.recipe("zz-other", RECIPE.replace("support-json", "zz-other")), plannable(shop)))
async def test_o_chooses_another_recipe(room):
    await room.press("o", until=lambda: isinstance(room.screen, ChoiceDialog))
    await room.press("down", "enter", until=lambda: "recipes/zz-other.toml" in room.head("#plan-form"))


@planning("✗ This does not fit", size=NARROW, limit=0.6)
async def test_m_shows_the_side_panels_of_a_small_screen(room):
    assert not room.screen.query_one("#plan-side").display
    await room.press("g", until=lambda: isinstance(room.screen, PageScreen))
    await room.until(lambda: "activations" in room.text("#rows"))
    assert "Fits with" in room.text("#rows")
    await room.press("escape")
    assert room.mode == "plan"


async def test_without_a_recipe_the_room_says_what_it_is_for(shop, open_room):
    async with open_room("plan", size=NARROW) as room:
        assert "No recipes yet." in room.text("#invite")
        await room.press("enter", "plus", "n", "u", "backspace", "f", ".", "g")
        assert room.mode == "plan"
        assert "No recipes yet." in room.text("#invite")


@any_size
@opens(stage=lambda shop: plannable(shop, limit=0.6), settle=None)
async def test_the_room_can_have_any_size(room, size):
    await room.until(lambda: form(room).plan is not None)
    await room.press("end", "enter", "escape", "g", "escape", "plus", "u", "pageup")
    await room.pilot.resize_terminal(size[0] + 1, size[1] + 1)
    await room.pilot.pause()
    assert room.app.is_running


BAD = "[bold]x[/] \\u001b]0;owned\\u0007 \\u202e日本"


@planning(text=RECIPE.replace('forbid = ["Northpeak"]', f'forbid = ["{BAD}"]\nprompt = "{BAD}"'))
async def test_values_are_shown_as_plain_text(room):
    for path in ("evaluation.forbid", "evaluation.prompt"):
        await select(room, path)
        assert "[bold]x[/]" in room.text("#plan-keys")
        await room.press("enter")
        await room.pilot.pause()
        text = shown(room.app)
        assert "owned" in text
        assert not set(text) & set("\x1b\x07\u202e"), path
        await room.press("escape")


def test_a_base_is_described_whole():
    item = next(item for item in KEYS if item.path == "model.base")
    recipe = Recipe("r", ModelSection("smollm2-135m"), DataSection("rows.jsonl"))
    for model in catalog.models():
        detail = render.key_detail(item, recipe, base_summary(model), 62)
        assert " ".join(detail.plain.split()) == base_summary(model)


async def test_home_shows_the_plan_of_the_recipe(room):
    await room.app.run_action("room('home')")
    await room.until(lambda: "12 steps" in room.text("#workflow-picture"))


async def test_figures_from_before_an_edit_are_marked(room, monkeypatch):
    gate, plan = Gate(), PlanService.plan

    def slow_plan(*arguments: Any, **options: Any) -> PlannedRecipe | None:
        gate.wait()
        return plan(*arguments, **options)

    assert "from before your edit" not in verdict(room)
    monkeypatch.setattr(PlanService, "plan", slow_plan)
    await room.press(*["down"] * 6, "right", until=lambda: "The figures are from before your edit." in verdict(room))
    gate.set()
    await room.until(lambda: "from before your edit" not in verdict(room))


def test_of_several_waiting_plans_the_outdated_ones_are_not_computed(tmp_path, monkeypatch):
    """Each run that ends changes what a plan depends on; plans would otherwise take all threads of the app."""
    planned, gate = [], threading.Event()

    def plan(service: PlanService, recipe: Any, progress: Any) -> Any:
        planned.append(recipe)
        gate.wait(PATIENCE)
        return recipe

    monkeypatch.setattr(PlanService, "_plan", plan)
    service, newest = PlanService(tmp_path), ["first"]
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(service.plan, "first", quiet, lambda: newest[-1] != "first")]
        wait_until(lambda: planned)
        for recipe in ("second", "third", "fourth"):
            newest.append(recipe)
            calls.append(pool.submit(service.plan, recipe, quiet, lambda recipe=recipe: newest[-1] != recipe))
        gate.set()
    assert planned == ["first", "fourth"]
    assert [call.result() for call in calls] == ["first", None, None, "fourth"]


async def test_a_plan_that_edits_made_outdated_is_not_computed(room, monkeypatch):
    planned, gate, plan = [], Gate(), PlanService._plan

    def slow_plan(service: PlanService, recipe: Recipe, progress: Any) -> PlannedRecipe:
        planned.append(recipe.training.batch_size)
        gate.wait()
        return plan(service, recipe, progress)

    monkeypatch.setattr(PlanService, "_plan", slow_plan)
    await room.press(*["down"] * 6, "right", until=lambda: planned)
    room.screen._replan()
    room.screen._replan()
    gate.set()
    await room.until(lambda: "from before your edit" not in verdict(room))
    assert len(planned) == 2


def test_a_fact_is_shown_whole_or_not_at_all():
    facts = "  rows    361 training\n          68 held out\n  tokens  25,718 trained\n          49% of 52,030\n  x  1"
    rows = [Content(row) for row in facts.split("\n")]
    shown = [cut_rows(rows, height, ("g", "all", "screen.memory")).plain.splitlines() for height in (3, 4, 5)]
    assert [[row.split()[0] for row in cut] for cut in shown] == [
        ["rows", "68", "g"],
        ["rows", "68", "g"],
        ["rows", "68", "tokens", "49%", "x"],
    ]
    long = cut_rows([rows[0], *[rows[1]] * 9], 8, ("g", "all", "screen.memory")).plain.splitlines()
    assert len(long) == 8, "but for a long one"


@pytest.mark.parametrize("height", range(4, 24))
def test_no_title_beside_the_form_stands_alone_above_the_key_for_the_rest(height):
    sections = [(title, [Content(title)] * 3) for title in ("Memory", "Time", "Elsewhere")]
    drawn = cut_rows(render.side(sections, 40, height), height, ("g", "all figures", "screen.memory")).plain.splitlines()
    assert len(drawn) <= height
    *rows, last = (row.strip() for row in drawn if row.strip())
    assert "─" not in rows[-1]
    assert last in ("g all figures", "Elsewhere")
