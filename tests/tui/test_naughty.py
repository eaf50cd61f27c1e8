"""Hostile text in data and names: it must not move the cursor, set a title, inject markup, reorder lines or break the grid."""

import json
from collections.abc import Iterator

import pytest
from evaluation_files import scored_arm
from exhaustive import cases
from rich.cells import cell_len

from mlxtune.evaluation.report import save
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import Score
from mlxtune.tui.rooms import ROOMS

from .driver import NARROW, RoomDriver, drive
from .stage import FINISHED, Shop
from .terminal import open_in_terminal, plain, terminal

pytestmark = pytest.mark.slow

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r"
BIDI = "\u202egnirts\u2066\u200f\u200b"
MARKUP = "[bold red]x[/] [@click=app.quit]go[/] $primary \\[a] :smile:"
WIDE = "日本語のとても長い文字列👩‍👩‍👧‍👦é" * 8
UNSAFE = "\x1b\x9b\x07\x00\r\t\u202e\u2066\u200f\u200b\ud800"
NAUGHTY = f"{ESCAPES}{BIDI}{MARKUP}{WIDE}\t\0\ud800"
ANSWER = NAUGHTY.replace("\ud800", "\ufffd")


async def assert_plain(room: RoomDriver, *presses: str) -> None:
    """Assert that no control character is on screen, now and after each key."""
    for key in ("", *presses):
        await room.press(*filter(None, [key]))
        await room.pilot.pause()
        assert not set(room.screen_text) & (set(UNSAFE) - {"\u200b"}), key


def rows() -> Iterator[str]:
    """Rows in which every string is hostile, and two invalid rows."""
    for at in range(12):
        answer = json.dumps({"category": NAUGHTY, "answer": NAUGHTY * 3})
        turns = [("system", NAUGHTY), ("user", f"{at} {NAUGHTY}"), ("assistant", answer if at % 2 else "word" * 400)]
        messages = [{"role": role, "content": text} for role, text in turns]
        yield json.dumps({"messages": messages, "id": NAUGHTY, "meta": {"tag": NAUGHTY, NAUGHTY: [NAUGHTY]}})
    yield json.dumps({"messages": NAUGHTY})
    yield "\x1b[2J{"


def naughty_shop(shop: Shop) -> Shop:
    """A workspace in which all foreign text is hostile: recipes, rows, a run, an evaluation and its answers."""
    recipe = 'name = "ok"\n[model]\nbase = "\\u001b]0;x\\u0007[red]\\u202e日本"\n[data]\nsource = "../data/[b]\\u202e.jsonl"\n'
    shop.recipe("[b]日本\u202e", recipe)
    shop.recipe("x\x1b[2J", "[[[\x1b")
    (shop.folder / "data" / "[b]\u202e.jsonl").write_text("\n".join(rows()) + "\n", encoding="utf-8", errors="surrogatepass")
    shop.run("20261123-1412-before", steps=30, name="ok", age=9000, end=("run.stopped", {"step": 30, "reason": NAUGHTY}))
    folder = shop.run(
        "20261124-1412-[b]\x1b]0;x\x07日本\u202e", steps=60, name="ok", printed=f"{ESCAPES}{MARKUP}{BIDI}\n", pairs=True
    )
    sample = {"step": 60, "row": "a", "prompt": NAUGHTY, "output": NAUGHTY + "\nline two", "outcome": "fails", "failure": NAUGHTY}
    events = [
        ("warning", {"code": "export_note", "values": {"note": NAUGHTY}}),
        ("sample", sample),
        ("run.failed", {"error": f"row {NAUGHTY}", "hint": NAUGHTY, "code": 2}),
    ]
    started = {"kind": "train", "name": NAUGHTY, "base": NAUGHTY, "pid": 1, "host": "mac", "step": 60}
    shop.tell(folder, [("run.resumed", started), *events])
    measured = shop.run(f"20261124-1500-[b]{BIDI}", kind="eval", end=FINISHED)
    facts = {"name": NAUGHTY, "base": NAUGHTY, "rows": 3, "run": folder.name, "ids": [NAUGHTY, "b", "c"]}
    scored = [[{"json": Score(at < hits, NAUGHTY), "contract": Score(at < hits, NAUGHTY)} for at in range(3)] for hits in (1, 3)]
    save(build(facts, [scored_arm(NAUGHTY, scored[0]), scored_arm("tuned", scored[1])]), measured)
    return shop


COMMON_KEYS = [("f1", "escape"), ("ctrl+p", "escape"), ("semicolon", "escape"), ("tab",), ("tab",), ("down", "down")]
SHOWS_ROWS = ("data", "review", "train")
ROOM_KEYS = {
    "home": [("n",), ("escape",)],
    "train": [("g",), ("escape",), ("L",), ("escape",), ("m",), ("c",), ("left",), ("escape",)],
}


@pytest.mark.parametrize("size", [(120, 36), pytest.param((80, 24), marks=pytest.mark.exhaustive)], ids=["120x36", "80x24"])
@pytest.mark.parametrize("room", cases(ROOMS, "review", "train"))
async def test_every_room_shows_hostile_text_as_plain_text(shop, room, size):
    async with drive(naughty_shop(shop).app(), room, size) as driver:
        for keys in ((), *COMMON_KEYS, ("enter",), ("escape",), (ROOMS[room].key,), *ROOM_KEYS.get(room, [])):
            await driver.press(*keys)
            await driver.pilot.pause()
            text = driver.screen_text
            assert not set(text) & set(UNSAFE), keys
            assert all(cell_len(row) == size[0] for row in text.splitlines()), keys
        assert driver.app.return_code is None


@pytest.mark.parametrize(
    "modes", cases([["data"], [mode for mode in ROOMS if mode not in ("data", "home")]], "data", name="-".join)
)
def test_no_control_byte_reaches_the_terminal(shop, tmp_path, modes):
    naughty_shop(shop)
    with terminal(shop.folder, tmp_path / "home", columns=80, rows=24) as screen:
        screen.until("^p more")
        for mode in modes:
            start = len(screen.written)
            open_in_terminal(screen, mode)
            if mode in SHOWS_ROWS:
                screen.until("owned", start)
            screen.press("\t")
            screen.press("\x1bOP", shows="esc close")
            screen.press("\x1bOP", shows="^p more")  # wait for the footer: the header is also rewritten when memory use changes
            if mode == "train":
                screen.press("g", shows="esc close")
                screen.until("[bold red]x[/]", start)
                screen.press("\x1b", shows="^p more")
        screen.press("\x11")
        assert screen.end() == 0
        assert screen.restored
        rest = plain(screen.written).decode("utf-8").replace("\r\n", "\n")
        assert not set(rest) & (set(UNSAFE) | {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))})
        assert "owned" in rest, "the hostile text was shown"


async def test_markup_in_a_sample_is_shown_literally(shop):
    async with drive(naughty_shop(shop).app(), "train", NARROW) as room:
        await room.press("g", until=lambda: "[bold red]x[/] [@click=app.quit]go[/]" in room.screen_text)
