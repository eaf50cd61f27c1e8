import re
from typing import Any
from unittest.mock import Mock

import pytest

from mlxtune.core.errors import InputError
from mlxtune.training.search import board as boards
from mlxtune.training.search.leaderboard import read_leaderboard
from mlxtune.tui.commands import CommandsPage
from mlxtune.tui.rooms.train.pages import QueuePage, SearchPage
from mlxtune.tui.widgets import ChoiceDialog
from mlxtune.workspace import control

from .driver import LARGE, NARROW, Opening, opens, picture_sizes
from .planned import plannable
from .searched import ID, write_search
from .stage import Shop, shown

pytestmark = pytest.mark.slow


async def opened(room: Any) -> None:
    await room.press("S", until=lambda: isinstance(room.screen, SearchPage))


ROOM = Opening("train", Shop.recipe, opened, size=NARROW)


@opens(mode="plan", stage=plannable)
async def test_a_search_starts_from_its_page_after_a_question_that_says_what_it_takes(room, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr(control, "search", lambda workspace, recipe: started.append(recipe.name))
    assert "n search for better hyperparameters" in room.text("#search-banner")
    await room.press("n", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert "Search hyperparameters of support-json?" in room.screen_text
    assert re.search(r"8 trials, .* take \d+ steps .* and [\d,]+ answers", room.question)
    await room.press("enter")
    assert not started
    await room.press("n", choose="search", until=lambda: started == ["support-json"])
    assert isinstance(room.screen, SearchPage)


async def test_a_recipe_without_a_contract_is_refused_before_the_question(room):
    await room.press("n", notice="✗ A search compares trials by their answers, but the recipe has no contract.")


@opens(mode="plan", stage=lambda shop: (shop.recipe(), write_search(shop, done=9, alive=True)), settle=None)
async def test_the_notice_about_a_running_search_names_a_key_that_stops_it(room):
    await room.press("n", notice="! The search of support-json is using this machine. Wait for it to finish, or stop it in Train")
    assert room.notice.endswith("(T, then s).")
    await room.press("T", mode="train")
    assert "or stop it (s)." in room.words("#invite")
    room.app.key_changes = {"train.stop": "x,ctrl+s"}
    assert "or stop it (x)." in room.app.runs.in_use.hint
    assert "stop" in room.actions
    assert room.text("#top").splitlines()[0].endswith(" trial 2 "), "a blank at the edge"
    await room.press("@", until=lambda: isinstance(room.screen, CommandsPage))
    commands = {label: command for _, label, command in room.screen.commands}
    assert commands["stop"] == f"mlxtune runs stop {ID}"
    assert commands["search"] == "mlxtune search recipes/support-json.toml"
    await room.press("@", mode="train")
    await room.press("s", until=lambda: isinstance(room.screen, ChoiceDialog))
    assert "Stop the search of support-json?" in room.screen_text


@opens(stage=lambda shop: write_search(shop, done=9, alive=True))
async def test_a_running_search_cannot_be_continued_and_the_page_shows_an_error(room, monkeypatch):
    monkeypatch.setattr(boards, "choose", Mock(side_effect=InputError("The search has ended.", hint="Start another one.")))
    in_use = "The search of support-json is using this machine. Wait for it to finish, or stop it (s)."
    for key, reason in (("r", in_use), ("[", "Not possible now: older.")):
        await room.press(key)
        assert reason in room.notice
    await room.press("x", until=lambda: "The search has ended. Start another one." in shown(room.app))


async def test_a_running_search_its_choices_and_the_question_that_stops_it(shop, open_room):
    shop.recipe()
    folder = write_search(shop, done=9, failed=True, alive=True)
    async with open_room("train", size=LARGE) as room:
        assert "searching" in room.text("#top")
        await opened(room)
        trials = room.text("#search-trials")
        assert "training to step 20" in trials
        assert "The loss at step 7 is NaN" in trials
        assert "So far: " in room.text("#search-banner")
        await room.press("end", "x", "a", "up", "x")
        await room.until(lambda: (board := boards.read_board(folder)) is not None and bool(board.pinned and board.dropped))
        await room.press("s", until=lambda: "Stop the search of support-json?" in shown(room.app))
        assert isinstance(room.screen, ChoiceDialog)
        assert "the current trial is saved" in shown(room.app)


@opens(stage=lambda shop: shop.run(ID, kind="search", alive=True), size=LARGE)
async def test_before_the_trials_are_planned_the_page_shows_the_log_and_that_it_stops(room, monkeypatch):
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: None)
    assert "smollm2-135m loaded in 2.9 s" in room.text("#search-banner")
    await room.press("s", choose="stop", until=lambda: "stopping" in room.text("#search-banner"))


@opens(stage=lambda shop: write_search(shop, finished=True), size=LARGE)
async def test_a_finished_search(room):
    assert "Trial 3 is better than the recipe." in room.text("#search-banner")
    first, second = room.text("#search-trials").splitlines()[1:3]
    assert "selected" in first + second
    assert "points" in room.text("#search-values")
    await room.press("Q", until=lambda: isinstance(room.screen, QueuePage))
    await room.press("S", until=lambda: isinstance(room.screen, SearchPage))
    await room.press("S", mode="train")


def test_trials_that_the_budget_excluded(shop):
    folder = write_search(shop, done=9, finished=True)
    board = read_leaderboard(folder)
    assert board
    assert {entry.number: entry.status for entry in board.entries}[7] == "not_continued"
    assert "waiting" not in {entry.status for entry in board.entries}


@picture_sizes
@pytest.mark.parametrize("state", ["running", "finished", "crashed"])
def test_pictures(shop, snap_compare, size, state):
    shop.recipe()
    write_search(
        shop,
        **{"running": {"done": 9, "failed": True, "alive": True}, "finished": {"finished": True}, "crashed": {"done": 3}}[state],
    )
    assert snap_compare(shop.app(), terminal_size=size, press=["T", "S"])
