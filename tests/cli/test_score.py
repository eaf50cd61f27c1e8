from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.evaluation.statistics import wilson

OUTPUTS = [
    {"id": "a", "output": '{"n": 1, "say": "Mind the gap."}'},
    {"id": "b", "output": '{"n": "one", "say": "mind THE gap."}'},
    {"id": "c", "output": "Sure! {}"},
    {"id": 4, "output": '{"n": 2, "say": "Mind the gap.\\nNorthpeak"}'},
]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
FLAGS = ("--schema", "s.json", "--disclaimer", "Mind the gap.", "--forbid", "Northpeak")


@pytest.fixture
def outputs(place: Path) -> str:
    (place / "s.json").write_text(json.dumps(SCHEMA))
    (place / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in OUTPUTS))
    return "o.jsonl"


def test_json_has_rates_with_intervals_and_each_failure(cli, outputs):
    ended = cli("score", outputs, *FLAGS, "--json")
    assert ended.code == 0
    found = json.loads(ended.out)
    rates = {rate["metric"]: rate for rate in found["rates"]}
    assert {name: rate["hits"] for name, rate in rates.items()} == {
        "json": 3,
        "ijson": 3,
        "fenced": 0,
        "extracted": 4,
        "schema": 2,
        "disclaimer": 3,
        "forbidden": 3,
        "contract": 1,
    }
    low, high = wilson(3, 4)
    assert (rates["json"]["low"], rates["json"]["high"], rates["json"]["share"]) == (low, high, 0.75)
    assert rates["json"]["failures"] == {"prose": 1}
    assert found["rows"] == 4
    failed = {row["id"]: sorted(row["failed"]) for row in found["scores"]}
    assert failed["a"] == []
    assert failed["b"] == ["contract", "schema"]
    assert failed["c"] == ["contract", "disclaimer", "json", "schema"]
    assert failed[4] == ["contract", "forbidden"]
    assert found["scores"][2]["observed"] == {"ijson": False, "fenced": False, "extracted": True}
    assert ended.err == ""


def test_text_has_a_line_for_each_metric(cli, outputs):
    ended = cli("score", outputs, *FLAGS)
    assert ended.code == 0
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert lines[0].startswith("Score ")
    assert lines[0].endswith("4 outputs")
    low, high = wilson(3, 4)
    assert lines[1].split() == ["valid", "JSON", "75.0", "%", f"{100 * low:.0f}–{100 * high:.0f}", "1", "prose"]
    assert [line.split("  ")[1] for line in lines[1:]] == [
        "valid JSON",
        "valid I-JSON",
        "JSON in a fence",
        "JSON found in it",
        "fits the schema",
        "right disclaimer",
        "no forbidden phrase",
        "whole contract",
    ]


def test_without_flags_only_json_is_asked_for(cli, outputs):
    rates = json.loads(cli("score", outputs, "--json").out)["rates"]
    assert [rate["metric"] for rate in rates] == ["json", "ijson", "fenced", "extracted", "contract"]


def test_flags_may_be_repeated(cli, outputs):
    found = json.loads(cli("score", outputs, "--forbid", "zzz", "--forbid", "gap", "--json").out)
    assert [rate["hits"] for rate in found["rates"]] == [1, 1]


SUITE = Path(__file__).parents[3] / "shared" / "data" / "jsontestsuite"


@pytest.mark.skipif(not SUITE.is_dir(), reason="the JSON parsing suite is not at ../shared/data/jsontestsuite")
def test_conformance_suite_is_scored_file_by_file(cli, place):
    files = sorted(SUITE.iterdir())
    rows = [{"id": file.name, "output": file.read_bytes().decode("utf-8", "surrogateescape")} for file in files]
    (place / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for outputs in (str(SUITE), "o.jsonl"):
        ended = cli("score", outputs, "--json")
        assert ended.code == 0, ended.err
        found = json.loads(ended.out)
        assert found["rows"] == len(files) == 318
        refused = {row["id"] for row in found["scores"] if "json" in row["failed"]}
        assert not [name for name in refused if name.startswith("y_")]
        assert not [file.name for file in files if file.name.startswith("n_") and file.name not in refused]


def test_folder_has_an_output_a_file(cli, place):
    folder = place / "outputs"
    folder.mkdir()
    assert cli("score", "outputs").code == 2
    (folder / "b.txt").write_text("{}")
    (folder / "a.txt").write_bytes(b'"\xff"')
    (folder / ".hidden").write_text("{}")
    scores = json.loads(cli("score", "outputs", "--json").out)["scores"]
    assert [(row["id"], *row["failed"].get("json", ["", ""])[:1]) for row in scores] == [("a.txt", "not UTF-8"), ("b.txt", "")]


def test_rows_may_say_why_they_ended_what_was_asked_and_what_is_right(cli, place):
    rows = [
        {"id": 1, "output": '{"a": 1, "b', "ended": "length"},
        {"id": 2, "output": '{"a": 1, "b": 2}', "reference": '{"a": 1, "b": 3}'},
        {"id": 3, "output": '{"say": "You wrote \\"Mind the gap.\\" there."}', "prompt": "Mind the gap."},
        {"id": 4, "output": '{"say": "Our motto is \\"Mind the gap.\\" here."}', "prompt": "Hello"},
    ]
    (place / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "s.json").write_text("{}")
    found = json.loads(cli("score", "o.jsonl", "--schema", "s.json", "--disclaimer", "Mind the gap.", "--json").out)
    scores = {row["id"]: row for row in found["scores"]}
    assert scores[1]["failed"]["json"][0] == "cut off"
    assert (scores[2]["observed"]["exact"], scores[2]["observed"]["fields"]) == (False, 0.5)
    assert "exact" not in scores[1]["observed"]
    assert scores[3]["failed"]["disclaimer"][0] == "quoted"
    assert "disclaimer" not in scores[4]["failed"]
    fields = next(rate for rate in found["rates"] if rate["metric"] == "fields")
    assert (fields["total"], fields["mean"]) == (1, 0.5)
    assert "mean 0.500" in cli("score", "o.jsonl").out


def test_recipe_brings_its_whole_contract(cli, place, outputs):
    text = """
name = "n"
model = { base = "m" }
data = { source = "d" }
[evaluation]
schema = "s.json"
disclaimers = [{ text = "Mind the gap!", match = "fuzzy", threshold = 80, at = "/say" }]
length = { max = 20, at = "/say" }
"""
    (place / "r.toml").write_text(text)
    rates = {
        rate["metric"]: rate["hits"] for rate in json.loads(cli("score", outputs, "--recipe", "r.toml", "--json").out)["rates"]
    }
    assert (rates["disclaimer"], rates["disclaimer_fuzzy"], rates["length"], rates["contract"]) == (0, 3, 2, 1)
    ended = cli("score", outputs, "--recipe", "r.toml", "--forbid", "x")
    assert ended.code == 2
    assert "--recipe" in ended.err


@pytest.mark.parametrize(
    "row", ['{"id": 1}', '{"output": "x"}', '{"id": 1, "output": 5}', '{"id": 1, "output": "x", "prompt": 5}', "5", "{"]
)
def test_row_of_another_form_is_named_by_its_line(cli, place, row):
    (place / "o.jsonl").write_text('{"id": 1, "output": "x"}\n' + row + "\n")
    ended = cli("score", "o.jsonl")
    assert ended.code == 2
    assert "o.jsonl, line 2" in ended.err


def test_separators_in_a_text_do_not_end_a_line(cli, place):
    rows = [{"id": 1, "output": "one\u2028two\x85three\x1cfour"}, {"id": 2, "output": "{}"}]
    (place / "o.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    ended = cli("score", "o.jsonl", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["rows"] == 2


def test_byte_order_mark_and_windows_line_ends_are_no_trouble(cli, place):
    (place / "o.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"id": 1, "output": "{}"}\r\n')
    assert cli("score", "o.jsonl").code == 0


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_hostile_outputs_are_scored(cli, place, flags):
    rows = [
        {"id": "\ud800", "output": "\ud800"},
        {"id": 2, "output": "\x1b[31m"},
        {"id": 3, "output": "[" * 5000},
        {"id": 4, "output": '"\\ud800"'},
    ]
    (place / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "s.json").write_text('{"type": "string", "minLength": 1}')
    ended = cli("score", "o.jsonl", "--schema", "s.json", *flags)
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out


def test_outputs_without_ids_are_named_by_their_lines(cli, place):
    (place / "o.jsonl").write_text('{"output": "{}"}\n\n{"output": "no"}\n')
    ended = cli("score", "o.jsonl", "--json")
    assert (ended.code, [row["id"] for row in json.loads(ended.out)["scores"]]) == (0, [1, 3])
