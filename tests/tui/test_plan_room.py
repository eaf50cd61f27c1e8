"""Plan: every key, edits that keep the file's layout, what is refused, and every state of a plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import DataError, MachineError
from mlxtune.models import resolve as resolving
from mlxtune.recipe import load
from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.screens.plan import Plan
from mlxtune.tui.widgets.pane import ListPane

from .planned import RECIPE, plannable, took
from .stage import Shop, footer, observe, shown, until


async def at_plan(app: MlxtuneApp, pilot: Any, text: str = "This fits") -> None:
    await pilot.press("P")
    await until(pilot, lambda: text in shown(app))


async def to(app: MlxtuneApp, pilot: Any, name: str) -> None:
    """Put the cursor on the key called ``name``."""
    screen = app.screen
    assert isinstance(screen, Plan)
    section, _, key = name.partition(".")
    screen.query_one("#plan-keys", ListPane).go(
        next(at for at, one in enumerate(screen._keys) if (one.section, one.name) == (section, key))
    )
    await pilot.pause()


def file_of(shop: Shop) -> Path:
    return shop.folder / "recipes" / "support-json.toml"


async def test_a_recipe_is_a_form_beside_what_it_takes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await at_plan(app, pilot)
        text = shown(app)
        parts = "✓ This fits: |of 8.0 GB.|estimated, within 25 %|recipes/support-json.toml|weights|activations|▌ model|48 train"
        parts += "|base: the model to start from|unknown until  b probe|12 in 2 epochs|learning_rate|1e-3|2e-4"
        for part in parts.split("|"):
            assert part in text, part
        assert footer(app).startswith("enter edit   t train   b probe")


async def test_enter_edits_in_place_and_the_file_keeps_its_comments(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await to(app, pilot, "adapter.rank")
        await pilot.press("enter")
        await pilot.press(*"32", "enter")
        await until(pilot, lambda: "✓ rank is 32." in shown(app))
        assert file_of(shop).read_text() == RECIPE.replace("rank = 8    #", "rank = 32   #")
        assert "~ 32" in shown(app)
        assert "1 edit" in shown(app)
        await pilot.press("u")
        await until(pilot, lambda: "Taken back." in shown(app))
        assert file_of(shop).read_text() == RECIPE
        assert "~ " not in shown(app)
        assert "undo" not in footer(app)


async def test_letters_typed_into_a_value_are_no_verbs_and_escape_leaves_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await to(app, pilot, "evaluation.prompt")
        await pilot.press("enter", *"Touch", "space", *"HD", "escape")
        await pilot.pause()
        assert app.current_mode == "plan"
        assert file_of(shop).read_text() == RECIPE
        assert "Touch" not in shown(app)
        await pilot.press("enter", *"Be", "space", *"kind", "enter")
        await until(pilot, lambda: "prompt is Be kind." in shown(app))
        assert load(file_of(shop)).evaluation.prompt == "Be kind"


async def test_what_the_recipe_refuses_is_a_sentence_and_the_field_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await to(app, pilot, "training.learning_rate")
        await pilot.press("enter", *"fast", "enter")
        await until(pilot, lambda: 'training.learning_rate must be a number, not "fast"' in shown(app))
        assert file_of(shop).read_text() == RECIPE
        await pilot.press("end", "ctrl+u", *"3e-4", "enter")
        await until(pilot, lambda: "learning_rate is 3e-4." in shown(app))
        assert "learning_rate = 3e-4\n" in file_of(shop).read_text()


async def test_arrows_go_through_choices_and_minus_and_plus_step_numbers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await to(app, pilot, "adapter.kind")
        await pilot.press("right")
        assert load(file_of(shop)).adapter.kind == "dora"
        await pilot.press("left")
        assert load(file_of(shop)).adapter.kind == "lora"
        await to(app, pilot, "training.batch_size")
        await pilot.press("plus")
        assert load(file_of(shop)).training.batch_size == 16
        await pilot.press("minus", "minus")
        assert load(file_of(shop)).training.batch_size == 4
        await to(app, pilot, "data.source")
        before = file_of(shop).read_bytes()
        await pilot.press("plus", "left")
        assert file_of(shop).read_bytes() == before, "a path has no next value"


async def test_d_takes_a_key_out_so_that_its_default_holds(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await to(app, pilot, "adapter.rank")
        assert "d default" in footer(app)
        await pilot.press("d")
        await until(pilot, lambda: "rank is 16." in shown(app))
        assert "rank" not in file_of(shop).read_text()
        assert "d default" not in footer(app)
        await to(app, pilot, "model.base")
        await pilot.press("d")
        assert "base" in file_of(shop).read_text(), "what has no default stays"


async def test_the_bar_follows_an_edit_and_rows_are_measured_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        screen = app.screen
        assert isinstance(screen, Plan)
        assert screen._sheet is not None
        before = screen._sheet.plan
        assert before is not None
        await to(app, pilot, "training.batch_size")
        await pilot.press("plus", "plus")
        await until(pilot, lambda: screen._sheet.plan is not before and screen._sheet.plan.memory > before.memory)  # type: ignore[union-attr]
        assert len(measured) == 1
        await to(app, pilot, "data.max_tokens")
        await pilot.press("minus")
        await until(pilot, lambda: len(measured) == 2)


async def test_g_makes_what_does_not_fit_fit_one_change_at_a_time(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch, limit=0.6)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot, "✗ This does not fit")
        assert "To make it fit" in shown(app)
        assert "grad_checkpoint = true" in shown(app)
        assert "a third more time a step" in shown(app)
        await pilot.press("g")
        await until(pilot, lambda: "grad_checkpoint is true." in shown(app))
        assert load(file_of(shop)).training.grad_checkpoint is True
        for _ in range(6):
            await until(pilot, lambda: app.screen._doing is None)  # type: ignore[attr-defined]
            if "This does not fit" not in shown(app):
                break
            await pilot.press("g")
            await pilot.pause(0.1)
        await until(pilot, lambda: "This fits" in shown(app) or "This is tight" in shown(app))
        assert "To make it fit" not in shown(app)
        while "undo" in footer(app):
            await pilot.press("u")
        assert file_of(shop).read_text() == RECIPE


async def test_t_asks_with_the_plan_s_verdict_and_its_default_does_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("mlxtune.runs.launch.start", lambda workspace, kind, recipe: started.append(recipe.name))
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await pilot.press("t")
        await until(pilot, lambda: "Train support-json?" in shown(app))
        assert shown(app).count("This fits: ") == 2
        await pilot.press("enter")
        await pilot.pause()
        assert started == []
        await pilot.press("t", "down", "enter")
        await until(pilot, lambda: started == ["support-json"])
        await until(pilot, lambda: app.current_mode == "train")


async def test_training_what_does_not_fit_says_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch, limit=0.6)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot, "✗ This does not fit")
        await pilot.press("t")
        await until(pilot, lambda: "Train anyway" in shown(app))


async def test_while_something_runs_nothing_starts(loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(loaded, monkeypatch)
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        assert "train" not in footer(app)
        assert "probe" not in footer(app)
        await pilot.press("t", "b")
        await pilot.pause()
        assert isinstance(app.screen, Plan)


async def test_b_probes_and_time_is_known(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    monkeypatch.setattr("mlxtune.planning.ask.steps", took())
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await pilot.press("b")
        await until(pilot, lambda: "measured on this machine" in shown(app))
        assert "as a probe" in shown(app)
        await pilot.press("m", "end")
        await until(pilot, lambda: "pays from" in shown(app))
        for part in ("rented", "hosted", "calls a month"):
            assert part in shown(app), part
        await pilot.press("escape")
        assert "unknown until" not in shown(app)


async def test_a_probe_that_dies_is_a_sentence_and_the_form_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*_: Any, **__: Any) -> None:
        raise MachineError("The process that looks at the step died: out of memory.")

    plannable(shop, monkeypatch)
    monkeypatch.setattr("mlxtune.planning.ask.steps", died)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await pilot.press("b")
        await until(pilot, lambda: "✗ The process that looks at the step died: out of memory." in shown(app))
        assert "max_tokens" in shown(app)
        await to(app, pilot, "training.batch_size")
        await pilot.press("minus")
        await until(pilot, lambda: "This fits" in shown(app))


async def test_rows_that_cannot_be_used_are_a_sentence(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(_: Any) -> None:
        raise DataError("support.jsonl, line 3: the prompt fills the window.\n  and 2 more", mend="Raise data.max_tokens.")

    plannable(shop, monkeypatch)
    monkeypatch.setattr("mlxtune.planning.ask.lengths", bad)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_plan(app, pilot, "✗ support.jsonl, line 3")
        assert "Raise data.max_tokens." in shown(app)
        assert "m costs" not in footer(app)


async def test_a_base_that_is_not_here_is_fetched_only_when_asked(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def resolve(base: str, *, near: Path = Path(), fetch: bool = True, **_: Any) -> Any:
        if fetch:
            fetched.append(base)
        return real(str(shop.folder / "model"))

    plannable(shop, monkeypatch, text=RECIPE.replace('"../model"', '"some/base-4bit"'))
    real = resolving.resolve
    monkeypatch.setattr(resolving, "resolve", resolve)
    monkeypatch.setattr(resolving, "here", lambda base, **_: bool(fetched))
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot, "some/base-4bit is not on this machine yet.")
        assert fetched == []
        assert "f fetch" in footer(app)
        await pilot.press("f")
        await until(pilot, lambda: "This fits" in shown(app))
        assert fetched == ["some/base-4bit"]
        assert "f fetch" not in footer(app)


async def test_a_base_of_the_catalogue_is_planned_before_it_is_here(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch, text=RECIPE.replace('"../model"', '"mlx-community/Llama-3.2-1B-Instruct-4bit"'))
    monkeypatch.setattr("mlxtune.models.bundled.ready", lambda: True)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await at_plan(app, pilot, "the base is not here yet: from the catalogue's shapes")
        assert "f fetch" in footer(app)
        assert "probe" not in footer(app)


async def test_a_base_that_there_is_none_of_is_told_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch, text=RECIPE.replace('"../model"', '"smollm2-135"'))
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot, "There is no model called smollm2-135.")
        assert "Did you mean smollm2-135m?" in shown(app)
        assert "fetch" not in footer(app)


async def test_what_takes_long_is_named_after_a_moment(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    known = __import__("mlxtune.planning.ask", fromlist=["lengths"]).lengths
    monkeypatch.setattr("mlxtune.planning.ask.lengths", lambda recipe: (time.sleep(0.5), known(recipe))[1])
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("P")
        await until(pilot, lambda: "● measuring the rows" in shown(app))
        assert "max_tokens" in shown(app), "the form is there at once"
        await until(pilot, lambda: "This fits" in shown(app))
        assert "measuring the rows" not in shown(app)


async def test_a_file_that_somebody_else_writes_is_taken_over(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await to(app, pilot, "adapter.rank")
        await pilot.press("plus")
        file_of(shop).write_text(RECIPE.replace("alpha = 16", "alpha = 99"))
        await pilot.press("u")
        await until(pilot, lambda: "✗ support-json.toml was changed since, so it stays as it is." in shown(app))
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "99" in shown(app))
        assert "undo" not in footer(app)
        file_of(shop).write_text("[[[")
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "✗ recipes/support-json.toml is not valid TOML" in shown(app))
        assert "It is read again as soon as it is saved." in shown(app)
        assert "edit" not in footer(app)
        file_of(shop).write_text(RECIPE)
        await observe(pilot, shop.snapshot())
        await until(pilot, lambda: "This fits" in shown(app))


async def test_a_look_at_the_file_that_is_older_than_the_last_edit_is_no_news(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        screen = app.screen
        assert isinstance(screen, Plan)
        await to(app, pilot, "adapter.rank")
        await pilot.press("plus")
        late = shop.snapshot()
        await pilot.press("plus")
        await observe(pilot, late)
        assert screen._sheet is not None
        assert (screen._sheet.recipe.adapter.rank, len(screen._sheet.edits)) == (32, 2)
        late = shop.snapshot()
        await pilot.press("u")
        await observe(pilot, late)
        assert (screen._sheet.recipe.adapter.rank, len(screen._sheet.edits)) == (16, 1)
        file_of(shop).write_text(RECIPE)
        await observe(pilot, shop.snapshot())
        assert (screen._sheet.recipe.adapter.rank, len(screen._sheet.edits)) == (8, 0), "somebody else went back to where it began"


async def test_a_value_is_written_to_the_key_that_the_field_was_opened_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        await to(app, pilot, "adapter.rank")
        await pilot.press("enter", *"32")
        app.screen.query_one("#plan-keys", ListPane).go(0)
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: "✓ rank is 32." in shown(app))
        assert file_of(shop).read_text() == RECIPE.replace("rank = 8    #", "rank = 32   #")


async def test_o_chooses_another_recipe(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch)
    shop.recipe("zz-other", RECIPE.replace("support-json", "zz-other"))
    shop.recipe("support-json", RECIPE)
    app = shop.app()
    async with app.run_test(size=(140, 36)) as pilot:
        await at_plan(app, pilot)
        await pilot.press("o")
        await until(pilot, lambda: "Which recipe?" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "recipes/zz-other.toml" in shown(app))


async def test_m_shows_what_a_small_screen_has_no_room_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    plannable(shop, monkeypatch, limit=0.6)
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_plan(app, pilot, "✗ This does not fit")
        assert "activations" not in shown(app)
        await pilot.press("m")
        await until(pilot, lambda: "activations" in shown(app))
        assert "To make it fit" in shown(app)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Plan))


async def test_without_any_recipe_the_room_says_what_it_is_for(shop: Shop) -> None:
    app = shop.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await at_plan(app, pilot, "There is no recipe yet.")
        await pilot.press("enter", "plus", "t", "u", "d", "g", "b", "m")
        await pilot.pause()
        assert "There is no recipe yet." in shown(app)


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (60, 15), (200, 60)])
async def test_any_size_is_borne(shop: Shop, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    plannable(shop, monkeypatch, limit=0.6)
    app = shop.app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("P")
        await until(pilot, lambda: app.screen._sheet is not None and app.screen._sheet.plan is not None)  # type: ignore[attr-defined]
        await pilot.press("end", "enter", "escape", "m", "escape", "plus", "u", "pageup")
        await pilot.resize_terminal(size[0] + 1, size[1] + 1)
        await pilot.pause()
        assert app.is_running


async def test_what_stands_in_a_recipe_is_shown_as_text(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = "[bold]x[/] \\u001b]0;owned\\u0007 \\u202e日本"
    plannable(shop, monkeypatch, text=RECIPE.replace('forbid = ["Northpeak"]', f'forbid = ["{bad}"]\nprompt = "{bad}"'))
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await at_plan(app, pilot)
        for name in ("evaluation.forbid", "evaluation.prompt"):
            await to(app, pilot, name)
            assert "[bold]x[/]" in shown(app)
            await pilot.press("enter")
            await pilot.pause()
            text = shown(app)
            assert "owned" in text
            assert not set(text) & set("\x1b\x07\u202e"), name
            await pilot.press("escape")
