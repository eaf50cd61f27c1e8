import json
from pathlib import Path

import pytest
from tiny_model import write_rows

from mlxtune.evaluation.statistics.intervals import wilson

OUTPUTS = [
    {"id": "a", "output": '{"n": 1, "say": "Mind the gap."}'},
    {"id": "b", "output": '{"n": "one", "say": "mind THE gap."}'},
    {"id": "c", "output": "Sure! {}"},
    {"id": 4, "output": '{"n": 2, "say": "Mind the gap.\\nNorthpeak"}'},
]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
FLAGS = ("--schema", "s.json", "--disclaimer", "Mind the gap.", "--forbid", "Northpeak")


@pytest.fixture
def outputs(cwd: Path) -> str:
    (cwd / "s.json").write_text(json.dumps(SCHEMA))
    write_rows(cwd / "o.jsonl", OUTPUTS)
    return "o.jsonl"


@pytest.mark.parametrize("thought", ["<think>\n\n</think>\n\n", "<think>Sure! Northpeak {</think>", "[THINK]{[/THINK]"])
def test_reasoning_before_an_answer_is_not_scored(cli, outputs, cwd, thought):
    plain = cli("score", outputs, *FLAGS, "--json").json
    rows = [row | {"output": thought + row["output"]} for row in OUTPUTS]
    write_rows(cwd / "thoughts.jsonl", rows)
    assert cli("score", "thoughts.jsonl", *FLAGS, "--json").json == plain


def test_json_has_rates_intervals_and_failures(ok, outputs):
    result = ok("score", outputs, *FLAGS, "--json")
    document = result.json
    rates = {rate["metric"]: rate for rate in document["rates"]}
    hits = {"json": 3, "extracted": 4, "schema": 2, "disclaimer": 3, "forbidden": 3, "contract": 1}
    assert {name: rate["hits"] for name, rate in rates.items()} == hits
    low, high = wilson(3, 4)
    assert (rates["json"]["low"], rates["json"]["high"], rates["json"]["share"]) == (low, high, 0.75)
    assert rates["json"]["failures"] == {"prose": 1}
    assert document["rows"] == 4
    failed = {row["id"]: sorted(row["failed"]) for row in document["scores"]}
    assert failed["a"] == []
    assert failed["b"] == ["contract", "schema"]
    assert failed["c"] == ["contract", "disclaimer", "json", "schema"]
    assert failed[4] == ["contract", "forbidden"]
    assert document["scores"][2]["observed"] == {"extracted": True}
    assert result.err == ""


def test_text_has_one_line_per_metric(ok, outputs):
    result = ok("score", outputs, *FLAGS)
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[0].startswith("Score ")
    assert lines[0].endswith("4 outputs")
    low, high = wilson(3, 4)
    assert lines[1].split() == ["valid", "JSON", "75.0%", f"{100 * low:.0f}–{100 * high:.0f}", "1", "prose"]
    metrics = "valid JSON, contains JSON, fits the schema, correct disclaimer, no forbidden phrase, whole contract"
    assert ", ".join(line.split("  ")[1] for line in lines[1:] if line) == metrics


def test_without_flags_only_json_is_required(cli, outputs):
    rates = cli("score", outputs, "--json").json["rates"]
    assert [rate["metric"] for rate in rates] == ["json", "extracted", "contract"]


def test_flags_may_be_repeated(cli, outputs):
    document = cli("score", outputs, "--forbid", "zzz", "--forbid", "gap", "--json").json
    assert [rate["hits"] for rate in document["rates"]] == [1, 1]


SUITE = Path(__file__).parents[3] / "shared" / "data" / "jsontestsuite"


@pytest.mark.skipif(not SUITE.is_dir(), reason="the JSON parsing suite is missing from ../shared/data/jsontestsuite")
def test_the_conformance_suite_is_scored_file_by_file(ok, cwd):
    files = sorted(SUITE.iterdir())
    rows = [{"id": file.name, "output": file.read_bytes().decode("utf-8", "surrogateescape")} for file in files]
    (cwd / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))  # escaped, because UTF-8 has no lone surrogates
    for outputs in (str(SUITE), "o.jsonl"):
        document = ok("score", outputs, "--json").json
        assert document["rows"] == len(files) == 318
        refused = {row["id"] for row in document["scores"] if "json" in row["failed"]}
        assert not [name for name in refused if name.startswith("y_")]
        assert not [file.name for file in files if file.name.startswith("n_") and file.name not in refused]


def test_a_folder_has_one_output_per_file(cli, cwd):
    folder = cwd / "outputs"
    folder.mkdir()
    assert cli("score", "outputs").code == 2
    (folder / "b.txt").write_text("{}")
    (folder / "a.txt").write_bytes(b'"\xff"')
    (folder / ".hidden").write_text("{}")
    scores = cli("score", "outputs", "--json").json["scores"]
    assert [(row["id"], *row["failed"].get("json", ["", ""])[:1]) for row in scores] == [("a.txt", "not_utf8"), ("b.txt", "")]


def test_rows_may_have_ended_prompt_and_reference(cli, cwd):
    rows = [
        {"id": 1, "output": '{"a": 1, "b', "ended": "length"},
        {"id": 2, "output": '{"a": 1, "b": 2}', "reference": '{"a": 1, "b": 3}'},
        {"id": 3, "output": '{"say": "You wrote \\"Mind the gap.\\" there."}', "prompt": "Mind the gap."},
        {"id": 4, "output": '{"say": "Our motto is \\"Mind the gap.\\" here."}', "prompt": "Hello"},
    ]
    write_rows(cwd / "o.jsonl", rows)
    (cwd / "s.json").write_text("{}")
    document = cli("score", "o.jsonl", "--schema", "s.json", "--disclaimer", "Mind the gap.", "--correct", "fields", "--json").json
    scores = {row["id"]: row for row in document["scores"]}
    assert scores[1]["failed"]["json"][0] == "cut_off"
    assert scores[2]["failed"]["correct"] == ["/b", "differs from the reference: /b"]
    assert "correct" not in scores[1]["failed"]
    assert scores[3]["failed"]["disclaimer"][0] == "quoted"
    assert "disclaimer" not in scores[4]["failed"]
    fields = next(rate for rate in document["rates"] if rate["metric"] == "correct")
    assert (fields["total"], fields["mean"]) == (1, 0.5)
    assert "mean 0.500" in cli("score", "o.jsonl", "--correct", "fields").out
    assert "must be a list of JSON Pointers" in cli("score", "o.jsonl", "--correct", "a").err


def test_a_recipe_adds_its_whole_contract(refused, cli, cwd, outputs):
    text = """
name = "n"
model = { base = "m" }
data = { source = "d" }
[evaluation]
schema = "s.json"
disclaimers = [{ text = "Mind the gap!", match = "fuzzy", threshold = 80, at = "/say" }]
length = { max = 20, at = "/say" }
"""
    (cwd / "r.toml").write_text(text)
    rates = {rate["metric"]: rate["hits"] for rate in cli("score", outputs, "--recipe", "r.toml", "--json").json["rates"]}
    assert (rates["disclaimer"], rates["disclaimer_fuzzy"], rates["length"], rates["contract"]) == (0, 3, 2, 1)
    refused(("score", outputs, "--recipe", "r.toml", "--forbid", "x"), "--recipe")


def test_unicode_line_separators_do_not_end_a_line(ok, cwd):
    rows = [{"id": 1, "output": "one\u2028two\x85three\x1cfour"}, {"id": 2, "output": "{}"}]
    (cwd / "o.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    result = ok("score", "o.jsonl", "--json")
    assert result.json["rows"] == 2


def test_a_byte_order_mark_and_crlf_are_accepted(cli, cwd):
    (cwd / "o.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"id": 1, "output": "{}"}\r\n')
    assert cli("score", "o.jsonl").code == 0


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_hostile_outputs_are_scored(ok, cwd, flags):
    rows = [
        {"id": "\ud800", "output": "\ud800"},
        {"id": 2, "output": "\x1b[31m"},
        {"id": 3, "output": "[" * 5000},
        {"id": 4, "output": '"\\ud800"'},
    ]
    (cwd / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (cwd / "s.json").write_text('{"type": "string", "minLength": 1}')
    result = ok("score", "o.jsonl", "--schema", "s.json", *flags)
    assert "\x1b" not in result.out


def test_outputs_without_ids_are_identified_by_line(cli, cwd):
    (cwd / "o.jsonl").write_text('{"output": "{}"}\n\n{"output": "no"}\n')
    result = cli("score", "o.jsonl", "--json")
    assert (result.code, [row["id"] for row in result.json["scores"]]) == (0, [1, 3])
