"""The commands that do the same as actions: every one can be typed, and the log has those of what was done."""

import re
import shlex
from collections.abc import Sequence
from unittest.mock import Mock

import pytest
from command_parser import parse_command
from textual.binding import Binding

from mlxtune.core.errors import InputError
from mlxtune.tui import keys
from mlxtune.tui.actions import Action, HasActions
from mlxtune.tui.commands import CommandsPage, command_of
from mlxtune.tui.rooms import ROOMS

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


MEANINGS = {  # of a character's key, with the labels (or the IDs, where the state of the room chooses the label) of its actions
    "a": ("accept it, or the left answer", {"accept", "A", "pin", "review.accept", "fix.accepted"}),
    "b": ("the base", {"base", "base check", "download", "chat.both"}),
    "c": ("compare with another one", {"compare", "train.compare"}),
    "d": ("the right answer", {"right", "B"}),
    "e": ("edit", {"edit", "map", "rename", "system"}),
    "f": ("fix what is wrong", {"fix", "fit", "disclaimer", "keep", "review"}),
    "g": ("show the rest: what has no room, or another view", {
        "samples", "details", "costs", "off task", "prompt", "why", "clusters", "repeats", "data.stats", "review.details",
        "page.close",
    }),
    "i": ("import", {"import"}),
    "m": ("another metric", {"metric"}),
    "n": ("a new one", {"new", "new recipe", "new search", "add", "train", "evaluate.evaluate"}),
    "o": ("open another one", {"open", "chat", "checkpoints", "rows only"}),
    "p": ("proposals", {"proposals"}),
    "q": ("close, at last the app", {"close", "quit", "page.close"}),
    "r": ("run what has stopped or waits", {"resume", "run"}),
    "s": ("stop", {"stop"}),
    "t": ("tag", {"tag"}),
    "u": ("undo", {"undo", "app.undo"}),
    "v": ("this or that", {"versus", "table"}),
    "w": ("write rows or files", {"write", "save", "export"}),
    "x": ("take it out", {"reject", "remove", "drop", "unload", "fix.reject"}),
    "y": ("who decides", {"annotator"}),
    "z": ("zoom", {"train.zoom"}),
    "F": ("fix by keeping the most different", {"diverse"}),
    "L": ("the log", {"log", "page.close"}),
    "O": ("the HTML report", {"html"}),
    "Q": ("the queue", {"queue", "close"}),
    "S": ("searches", {"search", "close"}),
    "U": ("redo", {"redo"}),
    "0": ("neither, or none", {"bad", "clear"}),
    "=": ("both alike", {"tie", "same"}),
    ".": ("measure or check now", {"probe", "recheck", "measure"}),
    "*": ("all rows", {"bulk"}),
    "!": ("no longer a finding", {"mute"}),
    "%": ("swap the answers", {"swap"}),
    ",": ("sort", {"sort"}),
    "/": ("filter", {"filter", "list.filter"}),
    ":": ("change rows", {"change"}),
    "#": ("note", {"note"}),
    "@": ("commands", {"commands", "close"}),
    "[": ("older", {"older"}),
    "]": ("newer", {"newer"}),
    "<": ("narrower", {"app.narrower"}),
    ">": ("wider", {"app.wider"}),
}  # fmt: skip
MOVES = re.compile(r"\w+\.(up|down|left|right|next|previous|next-value|previous-value|mark-up|mark-down|visual)")
MOVING = set("hjklJKv+-")  # as in vi; v alone has another meaning, in rooms whose lists have no marks


def meaning(kind: type, binding: Binding) -> str:
    """The label of a binding's action, or its ID if the state of the room chooses the label or if it has none."""
    actions: Sequence[Action] = kind.ACTIONS if issubclass(kind, HasActions) else ()
    labels = [one.label for one in actions if binding.id == one.binding_id(kind.GROUP)]  # type: ignore[attr-defined]
    return next((label for label in labels if isinstance(label, str) and label), binding.id or "")


def test_a_key_means_the_same_in_every_room():
    found: dict[str, set[str]] = {}
    for kind in keys.binding_classes():
        for binding in keys.own_bindings(kind):
            key = keys.display_key(binding.key)
            if len(key) > 1 or key in "←→↑↓" or re.fullmatch(r"(review\.tag|mapping\.key)-[1-9]", binding.id or ""):
                continue
            if MOVES.fullmatch(binding.id or ""):
                assert key in MOVING, f"{key} moves"
            else:
                found.setdefault(key, set()).add(meaning(kind, binding))
    rooms = {entry.key: {f"app.{mode}"} for mode, entry in ROOMS.items()}
    assert found == {key: names for key, (_, names) in MEANINGS.items()} | rooms
    assert found.keys() & MOVING == {"v"}
    labels = [name for names in found.values() for name in names - {"close", "page.close"}]
    assert sorted(labels) == sorted(set(labels)), "an action has one key in all rooms"


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
            patch.setattr("mlxtune.data.review.ReviewSession.decide", Mock(side_effect=InputError("The disk is full.")))
            with pytest.raises(InputError):
                session.decide("reject", [0])
        session.decide("dismiss", [0, 1], check="duplicate", reason="Both are needed.")
        assert room.app.commands.commands == []
