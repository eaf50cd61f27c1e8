"""``mlxtune data check`` and ``data stats`` as a shell sees them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from mlxtune.data.checks.document import SCHEMA

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
DIRTY = SAMPLES / "support-dirty.jsonl"


@pytest.fixture
def recipe(workspace: Path) -> Path:
    return workspace / "recipes" / "tiny.toml"


def lines(found: dict) -> dict[str, list[int]]:
    made: dict[str, list[int]] = {}
    for one in found["findings"]:
        if one["rows"]:
            made.setdefault(one["check"], []).append(one["rows"][0]["line"])
    return made


@pytest.mark.parametrize("name", ["support-dirty.jsonl", "support.jsonl", "support-pairs.jsonl"])
def test_json_is_what_the_schema_says(cli, name) -> None:
    found = json.loads(cli("data", "check", str(SAMPLES / name), "--json").out)
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(found)
    assert found["read"] == found["kept"] + found["refused"] == sum(file["read"] for file in found["files"])
    assert sum(found["formats"].values()) == found["kept"]
    ids = [one["id"] for one in found["findings"] if one["rows"]]
    assert len(ids) == len(set(ids))


def test_the_dirty_sample_is_found_out_and_exits_one(cli) -> None:
    ended = cli("data", "check", str(DIRTY), "--json")
    found = json.loads(ended.out)
    assert ended.code == 1
    assert (found["read"], found["kept"], found["refused"], found["word"]) == (23, 16, 7, "blocked")
    assert lines(found) == {
        "bad-row": [18, 21, 22, 23], "no-answer": [15], "role-order": [17], "empty-target": [16], "secret": [14], "mojibake": [13],
        "control": [19], "email": [10], "card": [10], "duplicate": [4], "conflict": [5, 8], "placeholder": [11], "loop": [12],
    }  # fmt: skip
    assert set(found["not_checked"]) == {"contract", "tokens", "split"}


def test_a_clean_file_exits_zero(cli) -> None:
    ended = cli("data", "check", str(SAMPLES / "support.jsonl"))
    assert ended.code == 0
    assert "Clean. Nothing is wrong with these 492 rows." in ended.out
    assert "contract not checked: there is no recipe" in ended.out


def test_the_table_fits_eighty_columns_and_says_what_the_json_says(cli, monkeypatch) -> None:
    found = json.loads(cli("data", "check", str(DIRTY), "--json").out)
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("data", "check", str(DIRTY)).out
    assert found["sentence"] in shown
    assert max(map(len, shown.splitlines())) <= 80
    for one in found["findings"]:
        assert one["title"] in shown or one["severity"] == "note"
    assert "and 1 more: --all" in shown
    assert "and 1 more" not in cli("data", "check", str(DIRTY), "--all").out
    assert "\u202e" not in shown


def test_a_recipe_brings_its_contract_tokens_and_split(cli, recipe) -> None:
    file = recipe.parent.parent / "chat.jsonl"
    rows = file.read_text().splitlines()
    long, broken = json.loads(rows[1]), json.loads(rows[2])
    long["messages"][0]["content"] = "Why? " * 60
    broken["messages"][1]["content"] = "Northpeak has it."
    cut = json.loads(rows[3])
    cut["messages"][1]["content"] = "Because it was so. " * 20
    file.write_text("".join(line + "\n" for line in [rows[0], *map(json.dumps, (long, broken, cut)), *rows[4:]]))
    ended = cli("data", "check", str(recipe), "--json")
    found = json.loads(ended.out)
    assert ended.code == 1
    assert found["not_checked"] == {}
    assert found["facts"]["lengths"]["unit"] == "tokens"
    picked = lines(found)
    assert (picked["prompt-fills-window"], picked["contract-forbidden"]) == ([2], [3])
    assert 4 in picked["truncated"]


def test_bad_rows_stop_neither_tokens_nor_contract_but_the_split(cli, recipe) -> None:
    file = recipe.parent.parent / "chat.jsonl"
    file.write_text("{\n" + file.read_text())
    found = json.loads(cli("data", "check", str(recipe), "--json").out)
    assert set(found["not_checked"]) == {"split"}
    assert found["refused"] == 1
    assert found["facts"]["lengths"]["unit"] == "tokens"


def test_a_model_that_is_not_there_leaves_the_tokens_out(cli, recipe) -> None:
    recipe.write_text(recipe.read_text().replace("../tiny", "../nowhere"))
    found = json.loads(cli("data", "check", str(recipe), "--json").out)
    assert "tokens" in found["not_checked"]


def test_fix_writes_a_new_file_and_what_it_did(cli, place) -> None:
    (place / "dirty.jsonl").write_bytes(DIRTY.read_bytes())
    ended = cli("data", "check", "dirty.jsonl", "--fix", "--json")
    fixed = json.loads(ended.out)["fixed"]
    assert ended.code == 0  # what blocked is gone
    assert (fixed["out"], fixed["rows"]) == ("dirty.fixed.jsonl", 15)
    assert (place / "dirty.jsonl").read_bytes() == DIRTY.read_bytes()
    assert len(fixed["changes"]) == len((place / "dirty.fixed.fixes.jsonl").read_text().splitlines()) == 12
    assert cli("data", "check", "dirty.fixed.jsonl").code == 0
    again = cli("data", "check", "dirty.jsonl", "--fix")
    assert (again.code, "is there already" in again.err) == (2, True)


def test_fix_takes_also_what_it_is_told(cli, place) -> None:
    (place / "dirty.jsonl").write_bytes(DIRTY.read_bytes())
    fixed = json.loads(cli("data", "check", "dirty.jsonl", "--fix", "--also", "loop", "--out", "out.jsonl", "--json").out)["fixed"]
    assert (fixed["out"], fixed["rows"]) == ("out.jsonl", 14)
    for wrong in (["--also", "loop"], ["--fix", "--also", "nonsense"], ["--out", "x.jsonl"]):
        assert cli("data", "check", "dirty.jsonl", *wrong).code == 2


def test_stats_say_how_much_how_long_and_how_even(cli) -> None:
    source = str(SAMPLES / "support.jsonl")
    found = json.loads(cli("data", "stats", source, "--json").out)
    assert found["facts"]["groups"] == 492
    assert found["facts"]["tags"]["category"]["safety"] == 129
    shown = cli("data", "stats", source).out
    for said in ("Minimum viable: 492 different prompts in 492 rows.", "Lengths", "safety", "129", "Next"):
        assert said in shown


def test_what_is_not_there_is_bad_input(cli) -> None:
    for verb in ("check", "stats"):
        ended = cli("data", verb, "nowhere.jsonl")
        assert (ended.code, ended.out) == (2, "")
