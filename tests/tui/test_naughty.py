"""Text of other people: it may not move the cursor, set a title, inject markup, turn lines around or break the grid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rich.cells import cell_len

from mlxtune.evaluation.report import Measured, build, save
from mlxtune.evaluation.scorers import Score
from mlxtune.tui.app import ROOMS
from mlxtune.tui.widgets.frame import LETTERS

from .stage import Shop, shown, until
from .terminal import Terminal, plain, terminal

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r"
BIDI = "\u202egnirts\u2066\u200f\u200b"
MARKUP = "[bold red]x[/] [@click=app.quit]go[/] $primary \\[a] :smile:"
WIDE = "日本語のとても長い文字列👩‍👩‍👧‍👦é" * 8
UNSAFE = "\x1b\x9b\x07\x00\r\t\u202e\u2066\u200f\u200b\ud800"
NAUGHTY = f"{ESCAPES}{BIDI}{MARKUP}{WIDE}\t\0\ud800"


def rows() -> Iterator[str]:
    """Rows of a source in which every string is hostile, beside some that are none."""
    for at in range(12):
        said = json.dumps({"category": NAUGHTY, "answer": NAUGHTY * 3})
        turns = [("system", NAUGHTY), ("user", f"{at} {NAUGHTY}"), ("assistant", said if at % 2 else "word" * 400)]
        messages = [{"role": role, "content": text} for role, text in turns]
        yield json.dumps({"messages": messages, "id": NAUGHTY, "meta": {"tag": NAUGHTY, NAUGHTY: [NAUGHTY]}})
    yield json.dumps({"messages": NAUGHTY})
    yield "\x1b[2J{"


def naughty_shop(shop: Shop) -> Shop:
    """A workspace in which everything that comes from others is hostile: recipes, rows, a run, an evaluation and its answers."""
    recipe = 'name = "ok"\n[model]\nbase = "\\u001b]0;x\\u0007[red]\\u202e日本"\n[data]\nsource = "../data/[b]\\u202e.jsonl"\n'
    shop.recipe("[b]日本\u202e", recipe)
    shop.recipe("x\x1b[2J", "[[[\x1b")
    (shop.folder / "data" / "[b]\u202e.jsonl").write_text("\n".join(rows()) + "\n", encoding="utf-8", errors="surrogatepass")
    shop.run("20261123-1412-before", steps=30, name="ok", age=9000, end=("run.stopped", {"step": 30, "reason": NAUGHTY}))
    folder = shop.run(
        "20261124-1412-[b]\x1b]0;x\x07日本\u202e", steps=60, name="ok", printed=f"{ESCAPES}{MARKUP}{BIDI}\n", pairs=True
    )
    sample = {"step": 60, "row": "a", "prompt": NAUGHTY, "output": NAUGHTY + "\nline two", "verdict": NAUGHTY}
    events = [
        ("warning", {"text": NAUGHTY}),
        ("sample", sample),
        ("run.failed", {"error": f"row {NAUGHTY}", "mend": NAUGHTY, "code": 2}),
    ]
    started = {"kind": "train", "name": NAUGHTY, "base": NAUGHTY, "pid": 1, "host": "mac", "step": 60}
    shop.tell(folder, [("run.resumed", started), *events])
    measured = shop.run(f"20261124-1500-[b]{BIDI}", kind="eval", end=("run.finished", {"summary": {}}))
    facts = {"name": NAUGHTY, "base": NAUGHTY, "rows": 3, "run": folder.name, "ids": [NAUGHTY, "b", "c"]}
    scored = [[{"json": Score(at < hits, NAUGHTY), "contract": Score(at < hits, NAUGHTY)} for at in range(3)] for hits in (1, 3)]
    save(build(facts, [Measured(NAUGHTY, False, 1.0, scored[0]), Measured("tuned", False, 1.0, scored[1])]), measured)
    return shop


PAGES = [
    ("f1", "escape"),
    ("ctrl+p", "escape"),
    ("semicolon", "escape"),
    ("tab",),
    ("tab",),
    ("down", "down"),
    ("enter",),
    ("escape",),
]
OF_ROOMS = {
    "home": [("n",), ("escape",)],
    "train": [("g",), ("escape",), ("l",), ("escape",), ("m",), ("c",), ("left",), ("escape",)],
}


@pytest.mark.parametrize("size", [(120, 36), (80, 24)], ids=["120x36", "80x24"])
@pytest.mark.parametrize("room", list(ROOMS))
async def test_every_room_shows_it_as_text(shop: Shop, room: str, size: tuple[int, int]) -> None:
    app = naughty_shop(shop).app()
    async with app.run_test(size=size) as pilot:
        for keys in ((LETTERS[ROOMS[room].ROOM],), *PAGES, (LETTERS[ROOMS[room].ROOM],), *OF_ROOMS.get(room, [])):
            await pilot.press(*keys)
            await pilot.pause(0.05)
            text = shown(app)
            assert not set(text) & set(UNSAFE), keys
            assert all(cell_len(row) == size[0] for row in text.splitlines()), keys
        assert app.return_code is None


def go(screen: Terminal, letter: str, shows: str) -> None:
    """Press ``letter`` until the room is there: rows that arrive between two keys move the focus, into a field perhaps."""
    start = len(screen.written)
    for _ in range(5):
        screen.press(letter)
        with suppress(AssertionError):
            screen.until(shows, start, seconds=5.0)
            return
        screen.press("\x1b[Z")
    screen.until(shows, start, seconds=0.1)


def test_no_control_byte_of_the_data_reaches_the_terminal(shop: Shop, tmp_path: Path) -> None:
    naughty_shop(shop)
    with terminal(shop.folder, tmp_path / "home", columns=80, rows=24) as screen:
        screen.until("Journey")
        for mode, room in ROOMS.items():
            if mode != "home":
                go(screen, LETTERS[room.ROOM], f"▎{room.ROOM}")
            screen.press("\t")
            screen.press("\x1bOP", shows="Everywhere")
            screen.press("\x1bOP", shows="^p more")  # the room's footer: its header is written again whenever memory changes
            screen.press("\x1b[Z")  # out of the field, if that was the next part: letters are text there
        screen.press("T")
        screen.press("g", shows="[bold red]x[/]")
        screen.press("\x11")
        assert screen.end() == 0
        assert screen.restored
        left = plain(screen.written).decode("utf-8").replace("\r\n", "\n")
        assert not set(left) & (set(UNSAFE) | {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))})
        assert "owned" in left


async def test_markup_in_a_sample_is_shown_as_it_is(shop: Shop) -> None:
    app = naughty_shop(shop).app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("T", "g")
        await until(pilot, lambda: "[bold red]x[/] [@click=app.quit]go[/]" in shown(app))
