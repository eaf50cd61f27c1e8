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
        "fits the schema",
        "right disclaimer",
        "no forbidden phrase",
        "whole contract",
    ]


def test_without_flags_only_json_is_asked_for(cli, outputs):
    rates = json.loads(cli("score", outputs, "--json").out)["rates"]
    assert [rate["metric"] for rate in rates] == ["json", "contract"]


def test_flags_may_be_repeated(cli, outputs):
    found = json.loads(cli("score", outputs, "--forbid", "zzz", "--forbid", "gap", "--json").out)
    assert [rate["hits"] for rate in found["rates"]] == [1, 1]


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
