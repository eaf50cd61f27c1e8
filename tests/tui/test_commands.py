"""The commands that do the same as actions: every one can be typed, and the log has those of what was done."""

import re
import shlex

import pytest
from command_parser import parse_command

from mlxtune.core.errors import InputError
from mlxtune.tui import keys
from mlxtune.tui.actions import HasActions
from mlxtune.tui.commands import CommandsPage, command_of

from .rows_stage import GOOD, fill, ready, session_of
from .test_keys import trained

pytestmark = pytest.mark.slow

EXAMPLES = {  # of the words in capitals
    "NUMBER": "1", "FORMAT": "mlx", "KEY=VALUE": "training.epochs=3", "FILE": "rows.jsonl", "PIPELINE": "trim", "FIELD": "x",
}  # fmt: skip


def screens() -> list[type[HasActions]]:
    return [kind for kind in keys.binding_classes() if issubclass(kind, HasActions)]


def test_every_command_can_be_typed():
    commands = {command_of(action, {}) for kind in screens() for action in kind.ACTIONS} - {""}
    assert len(commands) > 40
    for command in sorted(commands):
        words = re.sub(r"[A-Z]+(=[A-Z]+)?", lambda match: EXAMPLES.get(match[0], "x"), command)
        parse_command(shlex.split(words)[1:])


def test_o_opens_and_n_creates_in_every_room():
    labels = {key: {action.label for kind in screens() for action in kind.ACTIONS if action.key == key} for key in "on"}
    assert labels["o"] == {"open"}
    assert {label for label in labels["n"] if isinstance(label, str)} == {"new", "new recipe", "new search"}


async def test_what_was_done_is_listed_as_commands_that_can_be_copied(shop, checks, open_room):
    source = fill(shop, GOOD)
    async with open_room("data") as room:
        await room.until(lambda: ready(room))
        await room.press("x", notice="✗ Row 1 rejected.")
        await room.press("u", until=lambda: room.notice.startswith("↶"))
        await room.press("@", until=lambda: isinstance(room.screen, CommandsPage))
        page: CommandsPage = room.screen
        first, second, *possible = [command for *_, command in page.commands]
        assert first == "mlxtune data review recipes/support-json.toml --undo"
        assert re.fullmatch(r"mlxtune data review recipes/support-json.toml \w+ --reject", second)
        assert "mlxtune data check recipes/support-json.toml" in possible
        await room.press("enter")
        assert room.app.clipboard == first
        await room.press("@", mode="data")
    assert source.exists()


async def test_the_commands_of_a_room_are_about_what_it_shows(shop, open_room):
    trained(shop)
    async with open_room("train") as room:
        await room.press("@", until=lambda: isinstance(room.screen, CommandsPage))
        commands = {label: command for _, label, command in room.screen.commands}
        assert commands["resume"] == "mlxtune runs resume 20261122-1010-support-json"
        assert commands["new"] == "mlxtune train recipes/support-json.toml"


async def test_what_failed_or_has_no_command_is_not_listed(shop, checks, open_room, monkeypatch):
    fill(shop, GOOD)
    async with open_room("data") as room:
        await room.until(lambda: ready(room))
        session = session_of(room)
        assert session.undo_or_redo("undo") is None
        assert session.undo_or_redo("redo") is None
        with monkeypatch.context() as patch:
            patch.setattr("mlxtune.data.review.ReviewSession.decide", fail)
            with pytest.raises(InputError):
                session.decide("reject", [0])
        session.decide("dismiss", [0, 1], check="duplicate", reason="Both are needed.")
        assert room.app.commands.commands == []


def fail(*_args: object, **_more: object) -> None:
    raise InputError("The disk is full.")
