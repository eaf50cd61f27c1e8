"""The app starts no run that the command line refuses, and leaves no run folder behind."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlxtune.cli.main import app as cli
from mlxtune.data import check_cache
from mlxtune.data.check_cache import CheckOutcome

pytestmark = pytest.mark.slow

RECIPE = """name = "refused"
[model]
base = "{base}"
[data]
source = "{source}"
[adapter]
parent = "{parent}"
"""


@pytest.mark.parametrize(
    "broken",
    [
        {"source": "missing.jsonl"},
        {"source": "empty.jsonl"},
        {"source": "two.jsonl"},
        {"parent": "no-such-run"},
        {"base": "./no-such-model"},
    ],
    ids=["no data", "no rows", "an empty split", "no parent", "no base"],
)
async def test_the_app_refuses_what_the_command_line_refuses(shop, open_room, broken, monkeypatch):
    (shop.folder / "recipes").mkdir(parents=True)
    row = '{{"messages": [{{"role": "user", "content": "Question {0}"}}, {{"role": "assistant", "content": "{0}"}}]}}\n'
    (shop.folder / "empty.jsonl").write_text("")
    (shop.folder / "two.jsonl").write_text("".join(row.format(number) for number in range(2)))
    (shop.folder / "rows.jsonl").write_text("".join(row.format(number) for number in range(40)))
    values = {"base": "smollm2-135m", "source": "rows.jsonl", "parent": "", **broken}
    values["source"] = f"../{values['source']}"
    recipe = shop.folder / "recipes" / "refused.toml"
    recipe.write_text(RECIPE.format(**values))
    monkeypatch.chdir(shop.folder)
    refused = CliRunner().invoke(cli, ["train", str(recipe), "--detach"])
    assert refused.exception is not None
    async with open_room("home") as room:
        await room.press("n", choose="train", notice="✗")
        assert not list(Path(shop.folder, "runs").glob("*"))


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (CheckOutcome("blocked", 471, 9), "9 of 471 rows"),
        (CheckOutcome("clean", 480, 0, rules="of another recipe"), "Not checked since the recipe changed"),
    ],
)
async def test_rows_that_should_not_be_trained_on_are_named_before_a_run_starts(shop, open_room, monkeypatch, check, says):
    started: list[str] = []
    monkeypatch.setattr("mlxtune.workspace.control.train", lambda workspace, recipe: started.append(recipe.name))
    shop.recipe()
    check_cache.save(shop.folder / "data" / "support.jsonl", check)
    async with open_room("train") as room:
        await room.press("n", until=lambda: says in " ".join(room.screen_text.split()))
        await room.press(choose="data", until=lambda: room.mode == "data")
        await room.press("T")
        assert not started
        await room.press("n", choose="train", until=lambda: started == ["support-json"])


async def test_unusable_rows_are_said_once_with_the_key_to_them(shop, open_room):
    shop.recipe()
    (shop.folder / "data" / "support.jsonl").write_text('{"prompt": "q", "completion": ""}\n' * 3)
    async with open_room("train") as room:
        await room.press("n", choose="train", notice="✗ 3 of 3 rows cannot be used: support.jsonl, lines 1, 2, 3: ")
        assert room.notice.endswith(" D opens Data.")
