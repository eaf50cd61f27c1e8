from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import review
from mlxtune.data.review import Review
from mlxtune.data.rows import Row
from mlxtune.data.source import read_file


@pytest.fixture
def shop(place: Path) -> Path:
    """Sixty rows with questions that are like no other, a third of them tagged."""
    path = place / "shop.jsonl"
    rows = [{"prompt": hashlib.sha256(str(at).encode()).hexdigest()[:30], "completion": "a"} for at in range(60)]
    path.write_text("".join(json.dumps(row | ({"tag": "new"} if at % 3 == 0 else {})) + "\n" for at, row in enumerate(rows)))
    return path


@pytest.fixture
def pairs(place: Path) -> Path:
    path = place / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q {at}", "chosen": "good", "rejected": f"bad {at}"}) + "\n" for at in range(4)))
    return path


def _status(path: Path, row: Row) -> str:
    return review.load(path).of(row.hash).status


def _json(ended: Any) -> Any:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_split_says_the_shares_and_keeps_them(cli, shop):
    ended = cli("data", "split", "shop.jsonl", "--holdout", "0.2", "--validation", "0.1")
    assert ended.code == 0
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[1] == ["share", "rows", "new"]
    assert sum(int(line[1]) for line in lines[2:5]) == 60
    assert "shop.split.json keeps every row where it is." in ended.err
    facts = _json(cli("data", "split", "shop.jsonl", "--json"))  # what was asked last is asked again
    assert (facts["holdout"], facts["validation"], facts["seed"], facts["sealed"]) == (0.2, 0.1, 7, 0)
    assert [facts[part] for part in ("train", "valid", "test")] == [int(line[1]) for line in lines[2:5]]
    assert sum(facts["tags"]["new"].values()) == 20
    assert facts["tags"]["new"]["test"] == 4
    before = json.loads((shop.parent / "shop.split.json").read_text())["splits"][0]
    with shop.open("a") as file:
        file.write(
            "".join(
                json.dumps({"prompt": hashlib.sha256(bytes([at])).hexdigest()[:30], "completion": "a", "tag": "new"}) + "\n"
                for at in range(30)
            )
        )
    assert _json(cli("data", "split", "shop.jsonl", "--json"))["tags"]["new"]["test"] == 10
    after = json.loads((shop.parent / "shop.split.json").read_text())["splits"][0]
    for share in ("train", "valid", "test"):
        assert set(before[share]) <= set(after[share])


def test_split_says_when_the_test_share_is_unusual(cli, shop):
    assert "is usual" not in cli("data", "split", "shop.jsonl", "--holdout", "0.15").err
    assert "; 10% to 20% is usual" in cli("data", "split", "shop.jsonl", "--holdout", "0.4").err


def test_split_takes_the_data_of_a_recipe(cli, shop, place):
    (place / "r.toml").write_text('name = "r"\n[model]\nbase = "m"\n[data]\nsource = "shop.jsonl"\nholdout = 0.3\nseed = 3\n')
    facts = _json(cli("data", "split", "r.toml", "--json"))
    assert (facts["holdout"], facts["seed"], facts["file"]) == (0.3, 3, str(place / "shop.split.json"))
    assert _json(cli("data", "split", "r.toml", "--seed", "4", "--json"))["seed"] == 4


def test_split_says_what_it_set_aside(cli, place):
    core = "".join(hashlib.sha256(str(at).encode()).hexdigest()[:30] for at in range(4))
    heads = [hashlib.sha256(f"x{at}".encode()).hexdigest()[:16] for at in range(40)]
    texts = [hashlib.sha256(bytes([at])).hexdigest()[:30] for at in range(140)]
    texts += [head + core for head in heads[:20]] + [core + head for head in heads[20:]]
    path = place / "d.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    _json(cli("data", "split", "d.jsonl", "--holdout", "0.3", "--json"))
    path.write_text(path.read_text() + json.dumps({"text": core}) + "\n")
    ended = cli("data", "split", "d.jsonl")
    assert "1 new row set aside, twins of rows in different shares: d.jsonl, line 181" in ended.err
    assert len(_json(cli("data", "split", "d.jsonl", "--json"))["set_aside"]) == 1


def test_review_decides_on_rows_by_line_and_by_id(cli, shop):
    rows = read_file(shop)
    ended = cli("data", "review", "shop.jsonl", "1", rows[1].id[:6], "--accept", "--reason", "checked")
    assert (ended.code, ended.out.split("   ")[0]) == (0, "✓ 2 rows accepted.")
    assert [_status(shop, row) for row in rows[:3]] == ["accepted", "accepted", "pending"]
    assert _json(cli("data", "review", "shop.jsonl", "--reject", "3", "--json")) == {
        "seq": 1, "action": "reject", "reason": "", "rows": 1, "undo": 2, "redo": 0,
    }  # fmt: skip
    assert cli("data", "review", "shop.jsonl", "3", "--reject").out == "Nothing changed.\n"


def test_undo_and_redo_go_over_restarts(cli, shop):
    rows = read_file(shop)
    cli("data", "review", "shop.jsonl", "1", "--accept")
    cli("data", "review", "shop.jsonl", "1", "--reject")
    assert cli("data", "review", "shop.jsonl", "--undo").out == "✓ reject of 1 row undone.\n"
    assert _status(shop, rows[0]) == "accepted"
    assert cli("data", "review", "shop.jsonl", "--redo").out == "✓ reject of 1 row done again.\n"
    assert _status(shop, rows[0]) == "rejected"
    assert cli("data", "review", "shop.jsonl", "--redo").out == "Nothing changed.\n"


def test_many_rows_are_shown_before_they_are_decided_on(cli, shop):
    ended = cli("data", "review", "shop.jsonl", "--filter", "tag:new status:pending", "--all", "--accept")
    assert ended.code == 1
    assert "20 rows would be accepted:" in ended.err
    assert "and 15 more" in ended.err
    assert "Nothing was decided." in ended.err
    assert review.load(shop).decisions == {}
    assert cli("data", "review", "shop.jsonl", "--filter", "tag:new", "--all", "--accept", "--yes").code == 0
    assert len(review.load(shop).decisions) == 20
    cli("data", "review", "shop.jsonl", "--undo")
    assert review.load(shop).decisions == {}


def test_rows_are_chosen_by_what_a_check_finds(cli, shop):
    lines = shop.read_text().splitlines(keepends=True)
    shop.write_text("".join([*lines, lines[4], json.dumps({"prompt": "mine is ada@larkfell.org", "completion": "ok"}) + "\n"]))
    assert cli("data", "review", "shop.jsonl", "--filter", "finding:duplicate", "--all", "--reject", "--yes").code == 0
    facts = _json(cli("data", "review", "shop.jsonl", "--filter", "status:rejected", "--json"))
    assert [item["line"] for item in facts["listed"]] == [61]
    assert [
        item["line"] for item in _json(cli("data", "review", "shop.jsonl", "--filter", "finding:email", "--json"))["listed"]
    ] == [62]


def test_where_a_review_stands(cli, shop):
    rows = read_file(shop)
    cli("data", "review", "shop.jsonl", "1", "2", "--accept")
    cli("data", "review", "shop.jsonl", "3", "--skip")
    ended = cli("data", "review", "shop.jsonl")
    assert "2 of 60 decided" in ended.out.splitlines()[0]
    assert ended.out.splitlines()[1].strip() == "57 pending, 2 accepted, 1 skipped"
    assert [line.split()[1] for line in ended.out.splitlines()[2:]] == ["3", "4", "5", "6", "7"]
    facts = _json(cli("data", "review", "shop.jsonl", "--filter", "status:accepted", "--json"))
    assert {key: facts[key] for key in ("rows", "unusable", "pending", "accepted", "skipped", "edited", "undo", "orphaned")} == {
        "rows": 60, "unusable": 0, "pending": 57, "accepted": 2, "skipped": 1, "edited": 0, "undo": 2, "orphaned": [],
    }  # fmt: skip
    assert [row["id"] for row in facts["listed"]] == [row.id for row in rows[:2]]
    assert facts["listed"][0]["content"] == rows[0].content


def test_copies_are_decided_on_one_by_one(cli, shop):
    shop.write_text('{"text": "one"}\n{"text": "one"}\n')
    row = read_file(shop)[0]
    assert "several rows go by" in cli("data", "review", "shop.jsonl", row.id, "--reject").err
    assert cli("data", "review", "shop.jsonl", "2", "--reject").code == 0
    facts = _json(cli("data", "review", "shop.jsonl", "--json", "--list"))
    assert [(item["line"], item["status"]) for item in facts["listed"]] == [(1, "pending"), (2, "rejected")]


def test_decisions_that_lost_their_row_are_listed(cli, shop):
    cli("data", "review", "shop.jsonl", "1", "2", "--accept")
    gone = read_file(shop)[0]
    shop.write_text("".join(shop.read_text().splitlines(keepends=True)[1:]))
    assert f"1 decision lost its row: {gone.id} accepted" in cli("data", "review", "shop.jsonl").err
    assert [item["row"] for item in _json(cli("data", "review", "shop.jsonl", "--json"))["orphaned"]] == [gone.hash]


def test_an_edit_is_the_whole_new_content(cli, shop, place):
    row = read_file(shop)[0]
    content = _json(cli("data", "review", "shop.jsonl", "--filter", f"id:{row.id}", "--json"))["listed"][0]["content"]
    content["messages"][-1]["content"] = "better"
    assert cli("data", "review", "shop.jsonl", "1", "--edit", "-", stdin=json.dumps(content)).code == 0
    listed = _json(cli("data", "review", "shop.jsonl", "--filter", "status:edited better", "--json"))["listed"]
    assert [(item["line"], item["edited"], item["content"]["messages"][-1]["content"]) for item in listed] == [(1, True, "better")]
    assert cli("data", "review", "shop.jsonl", listed[0]["after"][:8], "--accept").code == 0  # it goes by its new id too
    (place / "bad.json").write_text('{"messages": []}')
    ended = cli("data", "review", "shop.jsonl", "1", "--edit", "bad.json")
    assert (ended.code, "shop.jsonl, line 1: messages" in ended.err) == (2, True)


def test_pairs_are_swapped_tied_or_called_bad(cli, pairs):
    for line, flag in ((1, "--swap"), (2, "--tie"), (3, "--both-bad")):
        assert cli("data", "review", "pairs.jsonl", str(line), flag).code == 0
    assert [_status(pairs, row) for row in read_file(pairs)] == ["accepted", "tied", "bad", "pending"]
    facts = _json(
        cli("data", "export", "pairs.jsonl", "--to", "trl", "--out", "out", "--holdout", "0", "--validation", "0", "--json")
    )
    assert (facts["train"], facts["valid"], facts["test"]) == (1, 0, 0)
    written = json.loads((pairs.parent / "out" / "train.jsonl").read_text())
    assert written["chosen"] == [{"role": "assistant", "content": "bad 0"}]


def test_tags_and_notes(cli, shop):
    cli("data", "review", "shop.jsonl", "1", "2", "--tag", "billing", "--untag", "new")
    cli("data", "review", "shop.jsonl", "1", "--note", "ask Ada")
    listed = _json(cli("data", "review", "shop.jsonl", "--filter", "tag:billing", "--json"))["listed"]
    assert [(item["line"], item["tags"], item["note"]) for item in listed] == [(1, ["billing"], "ask Ada"), (2, ["billing"], "")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--accept", "--reject", "1"), "One decision at a time."),
        (("--accept",), "No row is named."),
        (("1",), "It is not said what to decide."),
        (("999", "--accept"), "no row goes by 999"),
        (("ffffffffffff", "--accept"), "no row goes by ffffffffffff"),
        (("--filter", "status:lost"), "There is no status lost."),
        (("1", "--tie"), "only a pair can be called tie"),
        (("1", "--edit", "gone.json"), "gone.json cannot be read as JSON"),
        (("--format", "csv"), "There is no format csv."),
    ],
)
def test_what_cannot_be_decided_is_said(cli, shop, arguments, words):
    ended = cli("data", "review", "shop.jsonl", *arguments)
    assert ended.code == 2
    assert words in ended.err
    assert review.load(shop).decisions == {}


def test_a_source_that_is_not_there_leaves_no_journal(cli, place):
    for arguments in (("--undo",), ("1", "--accept"), ()):
        ended = cli("data", "review", "gone.jsonl", *arguments)
        assert (ended.code, "There is no data at gone.jsonl." in ended.err) == (2, True)
    assert list(place.iterdir()) == []


def test_a_second_window_is_refused_and_may_look(cli, shop):
    with Review(shop) as window:
        ended = cli("data", "review", "shop.jsonl", "1", "--accept")
        assert (ended.code, "under review in another window" in ended.err) == (2, True)
        assert cli("data", "review", "shop.jsonl").code == 0
        assert window.state.decisions == {}


def test_export_and_import_go_round(cli, shop, place):
    assert cli("data", "export", "shop.jsonl", "--to", "openai", "--out", "out").code == 2
    cli("data", "review", "shop.jsonl", "--all", "--accept", "--yes")
    ended = cli("data", "export", "shop.jsonl", "--to", "openai", "--out", "out")
    assert ended.code == 0
    assert ended.out.startswith("✓ out has ")
    assert "The test share is sealed" in ended.err
    assert _json(cli("data", "split", "shop.jsonl", "--json"))["sealed"] > 0
    ended = cli("data", "import", "out", "--out", "back.jsonl")
    assert ended.out == "✓ back.jsonl has 60 rows (60 chat).\n"
    assert {row.hash for row in read_file(place / "back.jsonl")} == {row.hash for row in read_file(shop)}


def test_import_maps_columns_and_leaves_bad_rows_out(cli, place):
    (place / "a.csv").write_text("question,answer\nq,a\nlost,\n")
    ended = cli("data", "import", "a.csv", "--out", "b.jsonl", "--map", "prompt=question,completion=answer")
    assert (ended.code, "1 row of 2 cannot be used" in ended.err, "--skip-bad" in ended.err) == (2, True, True)
    facts = _json(
        cli("data", "import", "a.csv", "--out", "b.jsonl", "--map", "prompt=question,completion=answer", "--skip-bad", "--json")
    )
    assert (facts["rows"], facts["left_out"]) == (1, 1)
    assert read_file(place / "b.jsonl")[0].question == [{"role": "user", "content": "q"}]


def test_import_takes_a_data_set_of_the_hub(cli, place, monkeypatch):
    (place / "fetched.jsonl").write_text('{"text": "one"}\n')
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr("mlxtune.data.take.hub.fetch", lambda name, file: asked.append((name, file)) or place / "fetched.jsonl")
    assert cli("data", "import", "owner/shop", "--file", "x.csv", "--out", "b.jsonl").code == 0
    assert asked == [("owner/shop", "x.csv")]
    ended = cli("data", "import", "data/gone.jsonl", "--out", "c.jsonl")
    assert (ended.code, "There is no data at data/gone.jsonl." in ended.err) == (2, True)


def test_an_unknown_target_is_named(cli, shop):
    ended = cli("data", "export", "shop.jsonl", "--to", "parquet", "--out", "out")
    assert (ended.code, "There is no export to parquet." in ended.err) == (2, True)
