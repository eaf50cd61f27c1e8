"""Text of other people: it may not move the cursor, set a title, inject markup, turn lines around or break the grid."""

from __future__ import annotations

from rich.cells import cell_len

from .stage import Shop, shown, until

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r"
BIDI = "\u202egnirts\u2066\u200f"
MARKUP = "[bold red]x[/] [@click=app.quit]go[/] $primary \\[a] :smile:"
WIDE = "日本語のとても長い文字列👩‍👩‍👧‍👦é" * 8
NAUGHTY = f"{ESCAPES}{BIDI}{MARKUP}{WIDE}\t\0\ud800"


def naughty_shop(shop: Shop) -> Shop:
    recipe = 'name = "ok"\n[model]\nbase = "\\u001b]0;x\\u0007[red]\\u202e日本"\n[data]\nsource = "[b]\\u001b[2J"\n'
    shop.recipe("[b]日本\u202e", recipe)
    shop.recipe("x\x1b[2J", "[[[\x1b")
    folder = shop.run("20261124-1412-[b]\x1b]0;x\x07日本\u202e", steps=60, name="ok", printed=f"{ESCAPES}{MARKUP}{BIDI}\n")
    sample = {"step": 60, "row": "a", "prompt": NAUGHTY, "output": NAUGHTY + "\nline two", "verdict": NAUGHTY}
    events = [
        ("warning", {"text": NAUGHTY}),
        ("sample", sample),
        ("run.failed", {"error": f"row {NAUGHTY}", "mend": NAUGHTY, "code": 2}),
    ]
    started = {"kind": "train", "name": NAUGHTY, "base": NAUGHTY, "pid": 1, "host": "mac", "step": 60}
    shop.tell(folder, [("run.resumed", started), *events])
    return shop


async def test_every_screen_shows_it_as_text(shop: Shop) -> None:
    app = naughty_shop(shop).app()
    for width, height in ((120, 36), (80, 24)):
        async with app.run_test(size=(width, height)) as pilot:
            for keys in (
                (),
                ("down",),
                ("T",),
                ("g",),
                ("escape",),
                ("l",),
                ("escape",),
                ("f1",),
                ("escape",),
                ("n",),
                ("escape",),
            ):
                await pilot.press(*keys)
                await pilot.pause()
                text = shown(app)
                assert not set(text) & set("\x1b\x9b\x07\x00\r\t\u202e\u2066\u200f\ud800"), keys
                assert all(cell_len(row) == width for row in text.splitlines()), keys
            assert app.return_code is None
        app = shop.app()


async def test_markup_in_a_sample_is_shown_as_it_is(shop: Shop) -> None:
    app = naughty_shop(shop).app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("T", "g")
        await until(pilot, lambda: "[bold red]x[/]" in shown(app))
        assert "[@click=app.quit]go[/]" in shown(app)
