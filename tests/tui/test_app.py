"""The app around the rooms: what it must not import, palette, help, themes, sizes, mouse, and being left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.screens.room import Room
from mlxtune.tui.theme import THEMES

from .stage import Shop, shown, until


def test_the_app_never_imports_mlx() -> None:
    code = "import sys, mlxtune.tui.app; print([n for n in sys.modules if n.split('.')[0] in ('mlx', 'mlx_lm', 'transformers')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_palette_offers_what_is_possible_now_and_does_it(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert "Go to Train (T)" in titles
        assert not any(title.startswith(("New", "Stop", "Resume")) for title in titles)
        await pilot.press("T")
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert "Stop (s)" in titles
        assert not any(title.startswith(("New", "Resume", "Go to Train")) for title in titles)
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Stop (s)" in shown(app))
        await pilot.press(*"zoom", "enter")
        await until(pilot, lambda: isinstance(app.screen, Room) and "z whole" in shown(app))


async def test_every_theme_can_be_chosen_and_redraws_the_chart(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("T")
        for theme in THEMES:
            app.action_theme(theme.name)
            await pilot.pause()
            assert "640 of 960" in shown(app)
            assert f"Theme: {theme.name}" not in [command.title for command in app.get_system_commands(app.screen)]


async def test_help_names_the_keys_of_the_room_and_closes(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("T", "f1")
        await until(pilot, lambda: "show the last fifth" in shown(app))
        assert "go on from the newest checkpoint" not in shown(app), "there is nothing to resume"
        await pilot.press("T")
        assert "show the last fifth" in shown(app), "keys of the room do not work under a page"
        await pilot.press("f1")
        await until(pilot, lambda: "640 of 960" in shown(app))


async def test_a_screenshot_lands_in_the_workspace(loaded: Shop) -> None:
    app = loaded.app()
    async with app.run_test(size=(80, 24)) as pilot:
        app.action_picture()
        await pilot.pause()
        assert len(list(loaded.folder.glob("*.svg"))) == 1
        await until(pilot, lambda: "✓ Saved " in shown(app))


async def test_no_color_leaves_every_sign(loaded: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = loaded.app()
    async with app.run_test(size=(120, 36)):
        assert app.no_color
        for sign in "●✓✗■○▌":
            assert sign in shown(app)


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (60, 15), (200, 60)])
async def test_any_size_is_borne_in_every_room_and_page(loaded: Shop, size: tuple[int, int]) -> None:
    app = loaded.app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("down", "down", "T", "z", "f1", "escape", "l", "pagedown", "home", "escape", "s", "escape", "H")
        await pilot.resize_terminal(size[0] + 1, size[1] + 1)
        await pilot.press("T")
        await pilot.pause()
        assert app.is_running


async def test_a_first_look_at_a_missing_workspace_is_an_empty_one(tmp_path: Path) -> None:
    app = MlxtuneApp(tmp_path / "nowhere")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Start with the sample workspace." in shown(app))
