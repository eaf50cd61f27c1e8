import hashlib
import json
import shlex
from pathlib import Path

import pytest
from keyed_rows import with_keys
from tiny_model import write_rows

from mlxtune.core.errors import DataError
from mlxtune.data import review
from mlxtune.data import split as splits
from mlxtune.data.review import ReviewSession
from mlxtune.data.rows import Row
from mlxtune.data.source import read_file, read_source
from mlxtune.data.transforms.pipeline import VERBS
from mlxtune.recipe import DataSection, load


@pytest.fixture
def shop(cwd: Path) -> Path:
    """Sixty rows with distinct prompts; every third is tagged."""
    rows = [{"prompt": hashlib.sha256(str(index).encode()).hexdigest()[:30], "completion": "a"} for index in range(60)]
    return write_rows(cwd / "shop.jsonl", [row | ({"tag": "new"} if index % 3 == 0 else {}) for index, row in enumerate(rows)])


def _status(path: Path, row: Row) -> str:
    return review.load(path).decision(row.hash).status


def test_split_prints_and_records_the_splits(ok, shop):
    result = ok("data", "split", "shop.jsonl", "--holdout", "0.2", "--validation", "0.1")
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[1] == ["split", "rows", "new"]
    assert sum(int(line[1]) for line in lines[2:5]) == 60
    assert "shop.split.json" in result.out
    report = ok("data", "split", "shop.jsonl", "--json").json  # the last settings are used again
    assert (report["holdout"], report["validation"], report["seed"], report["sealed"]) == (0.2, 0.1, 7, 0)
    assert [report[part] for part in ("train", "valid", "test")] == [int(line[1]) for line in lines[2:5]]
    assert sum(report["tags"]["new"].values()) == 20
    assert report["tags"]["new"]["test"] == 4
    before = json.loads((shop.parent / "shop.split.json").read_text())["splits"][0]
    with shop.open("a") as file:
        file.write(
            "".join(
                json.dumps({"prompt": hashlib.sha256(bytes([index])).hexdigest()[:30], "completion": "a", "tag": "new"}) + "\n"
                for index in range(30)
            )
        )
    assert ok("data", "split", "shop.jsonl", "--json").json["tags"]["new"]["test"] == 10
    after = json.loads((shop.parent / "shop.split.json").read_text())["splits"][0]
    for split in ("train", "valid", "test"):
        assert set(before[split]) <= set(after[split])


def test_split_warns_about_an_unusual_test_fraction(cli, shop):
    assert "10% to 20%" not in cli("data", "split", "shop.jsonl", "--holdout", "0.15").out
    assert "10% to 20%" in cli("data", "split", "shop.jsonl", "--holdout", "0.4").out


def test_split_uses_the_data_section_of_a_recipe(ok, shop, cwd):
    (cwd / "r.toml").write_text('name = "r"\n[model]\nbase = "m"\n[data]\nsource = "shop.jsonl"\nholdout = 0.3\nseed = 3\n')
    report = ok("data", "split", "r.toml", "--json").json
    assert (report["holdout"], report["seed"], report["file"]) == (0.3, 3, str(cwd / "shop.split.json"))
    assert ok("data", "split", "r.toml", "--seed", "4", "--json").json["seed"] == 4


def test_split_lists_rows_it_set_aside(ok, cli, cwd):
    core = "".join(hashlib.sha256(str(index).encode()).hexdigest()[:30] for index in range(4))
    heads = [hashlib.sha256(f"x{index}".encode()).hexdigest()[:16] for index in range(40)]
    texts = [hashlib.sha256(bytes([index])).hexdigest()[:30] for index in range(140)]
    texts += [head + core for head in heads[:20]] + [core + head for head in heads[20:]]
    path = write_rows(cwd / "d.jsonl", [{"text": text} for text in texts])
    ok("data", "split", "d.jsonl", "--holdout", "0.3")
    path.write_text(path.read_text() + json.dumps({"text": core}) + "\n")
    result = cli("data", "split", "d.jsonl")
    assert "1 new row  near-duplicates in different splits: d.jsonl, line 181" in result.out
    assert len(ok("data", "split", "d.jsonl", "--json").json["set_aside"]) == 1


def test_a_row_of_an_array_has_the_number_that_the_checks_print(cli, cwd):
    path = cwd / "shop.json"
    rows = [{"prompt": f"Question {index}?", "completion": "" if index == 2 else "Yes."} for index in range(4)]
    path.write_text(json.dumps(rows, indent=1))
    assert "row 3 " in cli("data", "check", "shop.json").out
    path.write_text(json.dumps([row | {"completion": "Yes."} for row in rows], indent=1))
    assert cli("data", "review", "shop.json", "3", "--accept").code == 0
    assert _status(path, read_file(path)[2]) == "accepted"
    assert " 3  " in cli("data", "review", "shop.json", "--list").out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": ', "Cannot read new.json"),
        ('{"prompt": "Hi?"}', "new.json cannot replace the row: "),
        ("[1]", "new.json cannot replace the row: a row must be a JSON object, not list."),
    ],
)
def test_an_invalid_edit_names_its_file_and_leaves_no_review(refused, shop, content, message):
    (shop.parent / "new.json").write_text(content)
    refused(("data", "review", "shop.jsonl", "1", "--edit", "new.json"), message)
    assert not review.journal_path(shop).exists()


def test_review_by_line_and_by_id(ok, cli, shop):
    rows = read_file(shop)
    result = cli("data", "review", "shop.jsonl", "1", rows[1].id[:6], "--accept", "--reason", "checked")
    assert (result.code, result.out.split("   ")[0]) == (0, "✓ 2 rows accepted.")
    assert [_status(shop, row) for row in rows[:3]] == ["accepted", "accepted", "pending"]
    assert ok("data", "review", "shop.jsonl", "--reject", "3", "--json").json == {
        "seq": 1, "action": "reject", "reason": "", "rows": 1, "undo": 2, "redo": 0,
    }  # fmt: skip
    assert cli("data", "review", "shop.jsonl", "3", "--reject").out == "Nothing changed.\n"


def test_undo_and_redo_across_commands(cli, shop):
    rows = read_file(shop)
    cli("data", "review", "shop.jsonl", "1", "--accept")
    cli("data", "review", "shop.jsonl", "1", "--reject")
    assert cli("data", "review", "shop.jsonl", "--undo").out == "✓ Undone: 1 row rejected.\n"
    assert _status(shop, rows[0]) == "accepted"
    assert cli("data", "review", "shop.jsonl", "--redo").out == "✓ Redone: 1 row rejected.\n"
    assert _status(shop, rows[0]) == "rejected"
    assert cli("data", "review", "shop.jsonl", "--redo").out == "Nothing changed.\n"


def test_a_bulk_decision_needs_confirmation(cli, shop):
    result = cli("data", "review", "shop.jsonl", "--filter", "tag:new status:pending", "--all", "--accept")
    assert result.code == 1
    assert "20 rows would be accepted:" in result.err
    assert "and 15 more" in result.err
    assert "Nothing was decided." in result.err
    assert review.load(shop).decisions == {}
    assert cli("data", "review", "shop.jsonl", "--filter", "tag:new", "--all", "--accept", "--yes").code == 0
    assert len(review.load(shop).decisions) == 20
    cli("data", "review", "shop.jsonl", "--undo")
    assert review.load(shop).decisions == {}


def test_rows_are_selected_by_finding(ok, cli, shop):
    lines = shop.read_text().splitlines(keepends=True)
    shop.write_text("".join([*lines, lines[4], json.dumps({"prompt": "mine is ada@larkfell.org", "completion": "ok"}) + "\n"]))
    assert cli("data", "review", "shop.jsonl", "--filter", "finding:duplicate", "--all", "--reject", "--yes").code == 0
    report = ok("data", "review", "shop.jsonl", "--filter", "status:rejected", "--json").json
    assert [item["line"] for item in report["listed"]] == [61]
    assert [item["line"] for item in ok("data", "review", "shop.jsonl", "--filter", "finding:email", "--json").json["listed"]] == [
        62
    ]


def test_a_pipeline_in_a_file_selects_rows_by_finding(ok, shop):
    """The checks run because the pipeline has the filter, wherever its text comes from, and not for a text that looks like one."""
    shop.write_text(shop.read_text() + json.dumps({"prompt": "mine is ada@larkfell.org", "completion": "ok"}) + "\n")
    (shop.parent / "steps.txt").write_text("drop finding:email\n")
    assert ok("data", "apply", "shop.jsonl", "@steps.txt", "--json").json["left_out"] == 1
    assert ok("data", "apply", "shop.jsonl", 'drop "finding:email"', "--json").json["left_out"] == 0


def test_two_annotators_do_not_see_each_other_and_are_compared(ok, cli, shop):
    assert cli("data", "review", "shop.jsonl", "1", "2", "3", "--accept", "--as", "ada").code == 0
    assert "0 of 60 decided by ben" in cli("data", "review", "shop.jsonl", "--as", "ben").out.splitlines()[0]
    assert cli("data", "review", "shop.jsonl", "1", "2", "--accept", "--as", "ben").code == 0
    assert cli("data", "review", "shop.jsonl", "3", "4", "--reject", "--as", "ben").code == 0
    shown = cli("data", "review", "shop.jsonl")
    assert "ada and ben  κ " in shown.out
    assert "mlxtune data review shop.jsonl --filter status:disputed" in shown.out
    report = ok("data", "review", "shop.jsonl", "--filter", "status:disputed", "--json").json
    assert [(item["line"], item["by"]) for item in report["listed"]] == [(3, {"ada": "accepted", "ben": "rejected"})]
    assert (report["disputed"], report["agreement"][0]["rows"], report["agreement"][0]["same"]) == (1, 3, 2)
    mine = ok("data", "review", "shop.jsonl", "--as", "ada", "--filter", "status:accepted", "--json").json
    assert ([item["line"] for item in mine["listed"]], mine["accepted"]) == ([1, 2, 3], 3)
    assert [_status(shop, row) for row in read_file(shop)[:4]] == ["accepted", "accepted", "rejected", "rejected"]


def test_review_status(ok, cli, shop):
    rows = read_file(shop)
    cli("data", "review", "shop.jsonl", "1", "2", "--accept")
    cli("data", "review", "shop.jsonl", "3", "--skip")
    result = cli("data", "review", "shop.jsonl")
    assert "2 of 60 decided" in result.out.splitlines()[0]
    assert result.out.splitlines()[1].endswith("57 pending, 2 accepted, 1 skipped")
    assert [line.split()[1] for line in result.out.splitlines()[3:]] == ["3", "4", "5", "6", "7"]
    report = ok("data", "review", "shop.jsonl", "--filter", "status:accepted", "--json").json
    assert {key: report[key] for key in ("rows", "unusable", "pending", "accepted", "skipped", "edited", "undo", "orphaned")} == {
        "rows": 60, "unusable": 0, "pending": 57, "accepted": 2, "skipped": 1, "edited": 0, "undo": 2, "orphaned": [],
    }  # fmt: skip
    assert [row["id"] for row in report["listed"]] == [row.id for row in rows[:2]]
    assert report["listed"][0]["content"] == rows[0].content


def test_copies_are_decided_separately(ok, cli, shop):
    shop.write_text('{"text": "one"}\n{"text": "one"}\n')
    row = read_file(shop)[0]
    assert "Several rows match" in cli("data", "review", "shop.jsonl", row.id, "--reject").err
    assert cli("data", "review", "shop.jsonl", "2", "--reject").code == 0
    report = ok("data", "review", "shop.jsonl", "--json", "--list").json
    assert [(item["line"], item["status"]) for item in report["listed"]] == [(1, "pending"), (2, "rejected")]


def test_orphaned_decisions_are_listed(ok, cli, shop):
    cli("data", "review", "shop.jsonl", "1", "2", "--accept")
    removed = read_file(shop)[0]
    shop.write_text("".join(shop.read_text().splitlines(keepends=True)[1:]))
    assert f"1 decision  {removed.id} accepted: the rows have changed since" in cli("data", "review", "shop.jsonl").out
    assert [item["row"] for item in ok("data", "review", "shop.jsonl", "--json").json["orphaned"]] == [removed.hash]


def test_an_edit_replaces_the_content(ok, refused, cli, shop, cwd):
    row = read_file(shop)[0]
    content = ok("data", "review", "shop.jsonl", "--filter", f"id:{row.id}", "--json").json["listed"][0]["content"]
    content["messages"][-1]["content"] = "better"
    assert cli("data", "review", "shop.jsonl", "1", "--edit", "-", stdin=json.dumps(content)).code == 0
    listed = ok("data", "review", "shop.jsonl", "--filter", "status:edited better", "--json").json["listed"]
    assert [(item["line"], item["edited"], item["content"]["messages"][-1]["content"]) for item in listed] == [(1, True, "better")]
    assert cli("data", "review", "shop.jsonl", listed[0]["after"][:8], "--accept").code == 0  # the new id works, too
    (cwd / "bad.json").write_text('{"messages": []}')
    refused(("data", "review", "shop.jsonl", "1", "--edit", "bad.json"), "bad.json cannot replace the row: messages")


def test_pairs_are_swapped_tied_or_marked_bad(ok, cli, cwd):
    rows = [{"prompt": f"q {index}", "chosen": "good", "rejected": f"bad {index}"} for index in range(4)]
    pairs = write_rows(cwd / "pairs.jsonl", rows)
    for line, flag in ((1, "--swap"), (2, "--tie"), (3, "--both-bad")):
        assert cli("data", "review", "pairs.jsonl", str(line), flag).code == 0
    assert [_status(pairs, row) for row in read_file(pairs)] == ["accepted", "tied", "bad", "pending"]
    report = ok(
        "data", "export", "pairs.jsonl", "--to", "trl", "--out", "out", "--holdout", "0", "--validation", "0", "--json"
    ).json
    assert (report["train"], report["valid"], report["test"], report["undecided"]) == (1, 0, 0, 1)
    written = json.loads((pairs.parent / "out" / "train.jsonl").read_text())
    assert written["chosen"] == [{"role": "assistant", "content": "bad 0"}]


def test_tags_and_notes(ok, cli, shop):
    cli("data", "review", "shop.jsonl", "1", "2", "--tag", "billing", "--untag", "new")
    cli("data", "review", "shop.jsonl", "1", "--note", "ask Ada")
    listed = ok("data", "review", "shop.jsonl", "--filter", "tag:billing", "--json").json["listed"]
    assert [(item["line"], item["tags"], item["note"]) for item in listed] == [(1, ["billing"], "ask Ada"), (2, ["billing"], "")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--accept", "--reject", "1"), "Only one decision can be made at a time."),
        (("--accept",), "No rows were specified."),
        (("1",), "No decision was specified."),
        (("999", "--accept"), "No row matches 999"),
        (("ffffffffffff", "--accept"), "No row matches ffffffffffff"),
        (("--filter", "status:lost"), "Unknown status lost."),
        (("1", "--tie"), "tie applies only to pairs"),
        (("1", "--edit", "missing.json"), "Cannot read missing.json"),
        (("--format", "csv"), "Unknown format csv."),
    ],
)
def test_invalid_decisions_are_refused(refused, shop, arguments, words):
    refused(("data", "review", "shop.jsonl", *arguments), words)
    assert review.load(shop).decisions == {}


def test_export_and_import_round_trip(ok, cli, shop, cwd):
    assert cli("data", "export", "shop.jsonl", "--to", "openai", "--out", "out").code == 2
    cli("data", "review", "shop.jsonl", *map(str, range(1, 31)), "--accept", "--yes")
    assert (
        "30 undecided rows  --pending exports them, too"
        in cli("data", "export", "shop.jsonl", "--to", "openai", "--out", "half").out
    )
    cli("data", "review", "shop.jsonl", "--all", "--accept", "--yes")
    result = ok("data", "export", "shop.jsonl", "--to", "openai", "--out", "out")
    assert "undecided" not in result.out
    assert "can never be used for training" in result.out
    assert ok("data", "split", "shop.jsonl", "--json").json["sealed"] > 0
    result = cli("data", "import", "out", "--out", "back.jsonl")
    assert "60 rows  60 chat; back.jsonl" in result.out
    assert {row.hash for row in read_file(cwd / "back.jsonl")} == {row.hash for row in read_file(shop)}


def test_a_map_can_be_given_in_parts(cli, cwd):
    (cwd / "a.csv").write_text("frage,antwort\nq,a\n")
    parts = ("--map", "prompt=frage", "--map", "completion=antwort")
    assert "1 row" in cli("data", "import", "a.csv", "--out", "b.jsonl", *parts).out
    assert cli("init", "--from", "a.csv", *parts).code == 0
    assert load(Path("recipes/a.toml"), []).data.map == {"prompt": "frage", "completion": "antwort"}


def test_import_downloads_a_hub_dataset(refused, cli, cwd, monkeypatch):
    (cwd / "downloaded.jsonl").write_text('{"text": "one"}\n')
    downloads: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "mlxtune.data.importer.download", lambda name, file: downloads.append((name, file)) or ([cwd / "downloaded.jsonl"], "")
    )
    assert cli("data", "import", "owner/shop", "--file", "x.csv", "--out", "b.jsonl").code == 0
    assert downloads == [("owner/shop", "x.csv")]
    refused(("data", "import", "data/missing.jsonl", "--out", "c.jsonl"), "There is no data at data/missing.jsonl.")


def test_apply_previews_and_records_one_decision(ok, cli, shop):
    before = shop.read_bytes()
    preview = ok("data", "apply", "shop.jsonl", 'replace "a" "b" in answer | cap tag 5')
    assert "45 edited, 15 left out: 60 → 45 rows." in preview.out
    assert "Nothing was changed." in preview.out
    assert not review.load(shop).steps
    result = cli("data", "apply", "shop.jsonl", 'replace "a" "b" in answer | cap tag 5', "--yes")
    assert "60 rows changed." in result.out
    (step,) = review.load(shop).steps
    assert (step.action, step.reason) == ("apply", 'replace "a" "b" in answer | cap tag 5')
    assert shop.read_bytes() == before
    assert cli("data", "apply", "shop.jsonl", "--applied").out == 'replace "a" "b" in answer | cap tag 5\n'
    assert cli("data", "apply", "shop.jsonl", "--applied", "--json").json == ['replace "a" "b" in answer | cap tag 5']
    assert "No change to 45 rows." in cli("data", "apply", "shop.jsonl", "trim", "--yes").out
    assert cli("data", "review", "shop.jsonl", "--undo").code == 0
    assert review.load(shop).decisions == {}


def test_apply_lists_its_verbs_as_json(ok, cli):
    listed = ok("data", "apply", "shop.jsonl", "--verbs", "--json").json
    assert [verb["verb"] for verb in listed] == list(VERBS)


def test_apply_only_changes_rows_that_match_the_filter(ok, shop):
    report = ok("data", "apply", "shop.jsonl", "tag x", "--filter", "tag:new", "--yes", "--json").json
    assert (report["rows"], report["edited"], report["seq"]) == (20, 20, 0)
    assert ok("data", "apply", "shop.jsonl", "tag x", "--filter", "tag:new", "--json").json["edited"] == 0


def test_apply_writes_a_new_file_for_verbs_that_add_rows(ok, refused, cli, shop, cwd):
    refused(
        ("data", "apply", "shop.jsonl", "merge shop.jsonl", "--yes"),
        "mlxtune data apply shop.jsonl 'merge shop.jsonl' --out shop.applied.jsonl",
    )
    report = ok("data", "apply", "shop.jsonl", "merge shop.jsonl | sample 70", "--out", "shop.applied.jsonl", "--json").json
    assert report["written"] == 70
    assert len(read_file(cwd / "shop.applied.jsonl")) == 70
    assert cli("data", "apply", "shop.jsonl", "trim", "--out", "shop.applied.jsonl").code == 2


def test_apply_maps_columns_into_a_new_file(cli, cwd):
    (cwd / "qa.jsonl").write_text('{"q": "Why?", "a": " Because. "}\n')
    assert cli("data", "apply", "qa.jsonl", "trim", "--map", "prompt=q,completion=a", "--out", "chat.jsonl").code == 0
    assert read_file(cwd / "chat.jsonl")[0].messages[1].content == "Because."


@pytest.mark.parametrize("line", ["", "fly", "replace /(/x/", "sample no"])
def test_apply_explains_an_invalid_line(cli, shop, line):
    result = cli("data", "apply", "shop.jsonl", line)
    assert result.code == 2
    assert result.err.count("\n") == 2


def test_a_dismissed_conflict_is_not_reported(ok, cwd):
    question = "Where is my parcel now?"
    path = write_rows(cwd / "rows.jsonl", [{"prompt": question, "completion": text} for text in ("At home", "Lost")])
    assert ok("data", "check", "rows.jsonl", "--json").json["findings"][0]["check"] == "conflict"
    with ReviewSession(path) as session:
        session.decide("dismiss", list(with_keys(read_file(path))), check="conflict", reason="both are true")
    assert not [one for one in ok("data", "check", "rows.jsonl", "--json").json["findings"] if one["check"] == "conflict"]
    with ReviewSession(path) as session:
        session.undo()
    assert ok("data", "check", "rows.jsonl", "--json").json["findings"][0]["check"] == "conflict"


def test_the_hint_about_leaking_splits_is_a_command_that_resolves_them(cli, cwd):
    rows = [{"prompt": hashlib.sha256(str(index).encode()).hexdigest(), "completion": "ok"} for index in range(20)]
    (cwd / "my data").mkdir()
    for part, chosen in (("train", rows), ("test", rows[:3])):
        write_rows(cwd / "my data" / f"{part}.jsonl", chosen)
    (cwd / "r.toml").write_text('name = "r"\n[model]\nbase = "m"\n[data]\nsource = "my data"\n')
    source = read_source(cwd / "my data")
    with pytest.raises(DataError, match="3 training rows are also in the test split") as caught:
        splits.split(source, DataSection("my data")).refuse_sealed(source.parts["train"])
    command = shlex.split(caught.value.hint.rpartition(": ")[2])
    assert command[0] == "mlxtune"
    assert cli(*command[1:]).code == 0
    source = read_source(cwd / "my data")
    splits.split(source, DataSection("my data")).refuse_sealed(source.parts["train"])
    assert [len(source.parts[name]) for name in ("train", "test")] == [17, 3]


def test_the_printed_undo_command_works_for_a_path_with_a_space(ok, cli, shop):
    (shop.parent / "my rows").mkdir()
    shop.rename(shop.parent / "my rows" / "shop.jsonl")
    shown = [
        ok("data", "review", "my rows/shop.jsonl", "1", "--reject").out,
        ok("data", "apply", "my rows/shop.jsonl", "cap tag 1", "--yes").out,
    ]
    for line in shown[::-1]:
        command = shlex.split(line.strip().rpartition("Undo: ")[2])
        assert ok(*command[1:]).out.startswith("✓ Undone")
