"""``mlxtune open``: what each room can be opened on. ``tests/tui/test_frame.py`` opens the app with the resulting state."""

from pathlib import Path
from typing import Any

import pytest
from adapters.conftest import arrays, config, write

from mlxtune.cli import open as opening
from mlxtune.core.errors import MlxtuneError
from mlxtune.tui.rooms import ROOMS


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A workspace with an adapter and a recipe, and the states that the app is opened with."""
    write(tmp_path / "adapters" / "shop", arrays(), config())
    for folder in ("recipes", "evals/20261124-1600-shop"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "evals/20261124-1600-shop/recipe.toml").touch()
    (tmp_path / "recipes" / "shop.toml").write_text('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n')
    monkeypatch.chdir(tmp_path)
    states: list[dict[str, Any]] = []
    monkeypatch.setattr(opening, "open_app", states.append)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    return states


def test_every_room_can_be_opened():
    assert set(opening.ROOM_ITEMS) == set(ROOMS)


@pytest.mark.parametrize(
    ("room", "item", "state"),
    [
        ("Train", "", {"room": "train"}),
        ("plan", "shop", {"room": "plan", "recipe": "recipes/shop.toml"}),
        ("data", "recipes/shop.toml", {"room": "data", "recipe": "recipes/shop.toml"}),
        ("review", "4f0a", {"room": "review", "row": "4f0a"}),
        ("evaluate", "last", {"room": "evaluate", "rooms": {"evaluate": {"evaluation": "20261124-1600-shop"}}}),
        ("adapters", "shop", {"room": "adapters", "rooms": {"adapters": {"key": "adapters/shop"}}}),
        ("chat", "last", {"room": "chat", "adapter": "adapters/shop"}),
    ],
)
def test_a_room_is_opened_on_an_item(room, item, state, opened):
    opening.open_room(room, item)
    assert opened == [state]
    for mode, restored in state.get("rooms", {}).items():
        assert set(restored) <= set(ROOMS[mode].load().SAVED), "the room ignores the item"


@pytest.mark.parametrize(
    ("room", "item", "message"),
    [
        ("trian", "", "no room named trian"),
        ("home", "x", "does not accept an item"),
        ("train", "last", "no training runs"),
        ("evaluate", "x", "no evaluation"),
        ("plan", "gone", "no recipe at"),
        ("chat", "gone", "no adapter"),
    ],
)
def test_what_does_not_exist_is_an_error(room, item, message, opened):
    with pytest.raises(MlxtuneError, match=message) as error:
        opening.open_room(room, item)
    assert error.value.hint
    assert not opened
