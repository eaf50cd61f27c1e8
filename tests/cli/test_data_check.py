import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from keyed_rows import with_keys
from tiny_model import write_rows

from mlxtune.data.checks.mismatch import mismatches
from mlxtune.data.checks.report import SCHEMA
from mlxtune.data.review import ReviewSession
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.present.check import check_title
from mlxtune.recipe import load
from mlxtune.runs import launch
from mlxtune.runs.events import EventWriter
from mlxtune.runs.registry import Run
from mlxtune.training import preflight

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
DIRTY = SAMPLES / "support-dirty.jsonl"

pytestmark = pytest.mark.usefixtures("rows_in_process")


@pytest.fixture
def recipe(workspace: Path) -> Path:
    return workspace / "recipes" / "tiny.toml"


def finding_lines(report: dict) -> dict[str, list[int]]:
    by_check: dict[str, list[int]] = {}
    for finding in report["findings"]:
        if finding["rows"]:
            by_check.setdefault(finding["check"], []).append(finding["rows"][0]["line"])
    return by_check


def last_command(result) -> str:
    return result.out.splitlines()[-1].strip()


@pytest.mark.parametrize(
    "name", ["support-dirty.jsonl", pytest.param("support.jsonl", marks=pytest.mark.exhaustive), "support-pairs.jsonl"]
)
def test_json_matches_the_schema(cli, name):
    report = cli("data", "check", str(SAMPLES / name), "--json").json
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(report)
    assert report["read"] == report["kept"] + report["refused"] == sum(file["read"] for file in report["files"])
    assert sum(report["formats"].values()) == report["kept"]
    ids = [finding["id"] for finding in report["findings"] if finding["rows"]]
    assert len(ids) == len(set(ids))


def test_the_dirty_sample_exits_1(cli):
    result = cli("data", "check", str(DIRTY), "--json")
    report = result.json
    assert result.code == 1
    assert (report["read"], report["kept"], report["refused"], report["outcome"]) == (23, 16, 7, "blocked")
    assert finding_lines(report) == {
        "bad-row": [18, 21, 22, 23], "no-answer": [15], "role-order": [17], "empty-target": [16], "secret": [14], "mojibake": [13],
        "control": [19], "email": [10], "card": [10], "duplicate": [4], "conflict": [5], "placeholder": [11], "loop": [12],
    }  # fmt: skip
    assert set(report["not_checked"]) == {"contract", "tokens", "split"}


def test_a_clean_file_exits_0(ok):
    result = ok("data", "check", str(SAMPLES / "support.jsonl"))
    assert "Clean: no problems in 836 rows." in result.out
    assert "contract, tokens, split  no recipe" in result.out


def test_the_tables_match_the_json(cli):
    report = cli("data", "check", str(DIRTY), "--json").json
    shown = cli("data", "check", str(DIRTY)).out
    assert f"{report['rows']['blocked']:,} of {report['rows']['rows']:,} rows" in shown
    for finding in report["findings"]:
        assert check_title(finding["check"]) in shown
    assert "1 more with --all" in shown
    assert "more with --all" not in cli("data", "check", str(DIRTY), "--all").out
    assert "\u202e" not in shown


def test_a_recipe_adds_contract_tokens_and_split(cli, recipe):
    file = recipe.parent.parent / "chat.jsonl"
    rows = file.read_text().splitlines()
    long_row, broken_row = json.loads(rows[1]), json.loads(rows[2])
    long_row["messages"][0]["content"] = "Why? " * 60
    broken_row["messages"][1]["content"] = "Northpeak has it."
    long_answer = json.loads(rows[3])
    long_answer["messages"][1]["content"] = "Because it was so. " * 20
    file.write_text("".join(line + "\n" for line in [rows[0], *map(json.dumps, (long_row, broken_row, long_answer)), *rows[4:]]))
    result = cli("data", "check", str(recipe), "--json")
    report = result.json
    assert result.code == 1
    assert report["not_checked"] == {}
    assert report["facts"]["lengths"]["unit"] == "tokens"
    lines = finding_lines(report)
    assert (lines["prompt-fills-window"], lines["contract-forbidden"]) == ([2], [3])
    assert 4 in lines["truncated"]
    rows, passed = report["free"]["rows"], report["free"]["constant"]
    assert passed == rows > 0
    assert f"one answer passes 100.0%  of {rows} held-out rows" in cli("data", "check", str(recipe)).out


def test_bad_rows_prevent_only_the_split_check(cli, recipe):
    file = recipe.parent.parent / "chat.jsonl"
    file.write_text("{\n" + file.read_text())
    report = cli("data", "check", str(recipe), "--json").json
    assert set(report["not_checked"]) == {"split"}
    assert report["refused"] == 1
    assert report["facts"]["lengths"]["unit"] == "tokens"


def test_fix_records_its_changes_in_the_review(cli, cwd):
    (cwd / "dirty.jsonl").write_bytes(DIRTY.read_bytes())
    result = cli("data", "check", "dirty.jsonl", "--fix", "--json")
    report = result.json
    assert result.code == 0  # blocking problems are fixed
    assert (report["rows"]["rows"], len(report["fixed"]["changes"])) == (15, 12)
    assert (cwd / "dirty.jsonl").read_bytes() == DIRTY.read_bytes()
    assert cli("data", "review", "dirty.jsonl", "--undo").code == 0
    assert cli("data", "check", "dirty.jsonl").code == 1


def test_also_adds_fixes(cli, cwd):
    (cwd / "dirty.jsonl").write_bytes(DIRTY.read_bytes())
    assert cli("data", "check", "dirty.jsonl", "--fix", "--also", "loop", "--json").json["rows"]["rows"] == 14
    for wrong in (["--also", "loop"], ["--fix", "--also", "nonsense"]):
        assert cli("data", "check", "dirty.jsonl", *wrong).code == 2


def test_the_base_is_asked_about_a_recipe_only(cli, cwd, monkeypatch):
    (cwd / "dirty.jsonl").write_bytes(DIRTY.read_bytes())
    (cwd / "r.toml").write_text('name = "r"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "dirty.jsonl"\n')
    assert "--base requires a recipe" in cli("data", "check", "dirty.jsonl", "--base").err
    monkeypatch.setattr("mlxtune.evaluation.check_process.find_mismatches", lambda *_: tuple(mismatches([(2, -0.5), (4, 9.0)])))
    found = [cli("data", "check", "r.toml", *options, "--json").json["findings"] for options in ((), ("--base",))]
    assert [[one["rows"][0]["line"] for one in each if one["check"] == "mismatch"] for each in found] == [[], [3]]


@pytest.mark.slow
def test_stats_show_counts_lengths_and_tags(cli):
    source = str(SAMPLES / "support.jsonl")
    report = cli("data", "stats", source, "--json").json
    assert report["facts"]["groups"] == 836
    assert report["facts"]["tags"]["category"]["safety"] == 107
    shown = cli("data", "stats", source).out
    for text in ("836 distinct in 836 rows  minimum viable", "Lengths", "safety", "107", "Next"):
        assert text in shown


@pytest.mark.slow
def test_every_required_metric_of_the_contract_is_reported(cli, recipe):
    text = recipe.read_text()
    rules = (
        'length = { max = 20, unit = "words" }\n[[evaluation.disclaimers]]\ntext = "Please ask a guide first"\nmatch = "fuzzy"\n'
    )
    recipe.write_text(text + rules)
    file = recipe.parent.parent / "chat.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["messages"][-1]["content"] = "Because it was so. Please ask a guide first."
    rows[1]["messages"][-1]["content"] = "So. " * 21 + "Please ask a guide first."
    rows[2]["messages"][-1]["content"] = "Because it was so."
    write_rows(file, rows)
    report = cli("data", "check", str(recipe), "--json").json
    lines = finding_lines(report)
    assert (lines.get("contract-length"), lines.get("contract-disclaimer-fuzzy")) == ([2], [3])
    assert "answers that fail “allowed length”" in cli("data", "check", str(recipe)).out
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(report)
    listed = cli("data", "review", str(recipe), "--filter", "finding:contract-length", "--json").json["listed"]
    assert [row["line"] for row in listed] == [2]
    content = listed[0]["content"]
    content["messages"][-1]["content"] = "Why. " * 21 + "Please ask a guide first."  # an edit that is still too long
    assert cli("data", "review", str(recipe), "2", "--edit", "-", stdin=json.dumps(content)).code == 0
    listed = cli("data", "review", str(recipe), "--filter", "finding:contract-length", "--json").json["listed"]
    assert [(row["line"], row["edited"]) for row in listed] == [(2, True)]
    fixed = cli("data", "check", str(recipe), "--fix", "--also", "contract-length", "--json").json["fixed"]
    assert [change["line"] for change in fixed["changes"] if "contract-length" in change["checks"]] == [2]


def test_held_out_answers_may_break_the_contract(cli, recipe):
    """Nothing is trained on them, and to leave them out would take the rows from the evaluation that tempt the model most."""
    recipe.write_text(recipe.read_text().replace("[evaluation]\n", '[evaluation]\nlength = { max = 1, unit = "words" }\n'))
    settings = load(recipe).data
    rows = split(read_source(load(recipe).source, settings), settings)
    assert rows.test
    lines = finding_lines(cli("data", "check", str(recipe), "--json").json)
    assert lines["contract-length"] == sorted(row.location.line for row in (*rows.train, *rows.valid))
    report = cli("data", "check", str(recipe), "--fix", "--also", "contract-length", "--json").json
    assert report["rows"]["rows"] == len(rows.test)


def test_a_filter_by_unknown_lengths_in_tokens_is_refused(refused, cli, recipe):
    """A listing does not download the model, as ``data check`` does."""
    recipe.write_text(recipe.read_text().replace("../tiny", "some/base"))
    rows = str(recipe.parent.parent / "chat.jsonl")
    for verb, *options in (
        ("review", "--list", "--filter", "-tokens>1"), ("apply", "trim", "--filter", "tokens>1"), ("apply", "drop tokens>1"),
    ):  # fmt: skip
        refused(
            ("data", verb, str(recipe), *options),
            "✗ The rows' lengths in tokens are unknown: some/base is not on this machine. | mlxtune models pull NAME",
        )
        assert "unknown: no recipe." in cli("data", verb, rows, *options).err
    listed = cli("data", "review", str(recipe), "--list", "--filter", "finding:truncated")
    assert (listed.code, "tokens were not checked: some/base is not on this machine" in listed.err) == (0, True)


def test_a_check_is_muted_with_a_reason(cli, tmp_path):
    source = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "I can't help with that."}]
    source.write_text(json.dumps({"messages": turns}) + "\n")
    assert "needs a reason" in cli("data", "check", str(source), "--mute", "refusal").err
    assert "Did you mean refusal" in cli("data", "check", str(source), "--mute", "refusals", "--reason", "x").err
    assert "cannot be muted" in cli("data", "check", str(source), "--mute", "bad-row", "--reason", "x").err
    shown = cli("data", "check", str(source), "--mute", "refusal", "--reason", "our policy")
    assert "muted, 1 finding  our policy" in shown.out
    assert cli("data", "check", str(source), "--json").json["muted"] == [{"check": "refusal", "count": 1, "reason": "our policy"}]
    assert "answers that refuse" in cli("data", "check", str(source), "--unmute", "refusal").out


@pytest.mark.parametrize(
    ("row", "ready"),
    [
        ({"question": "q", "answer": "a"}, "mlxtune init --from {} --map prompt=question,completion=answer"),
        ({"text": "q", "label": "a"}, "mlxtune init --from {} --map prompt=text,completion=label"),
        ({"text": "q"}, "mlxtune init --from {}"),  # after the advice to write more rows
        (
            {"prompt": "My key is AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q", "completion": "Revoke it."},
            "mlxtune data check {} --fix",
        ),
    ],
)
def test_the_last_line_is_a_command_to_run(row, ready, cli, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(row) + "\n")
    line = last_command(cli("data", "check", str(source)))
    assert line == ready.format(source)
    assert cli(*line.split()[1:]).code in (0, 1)


@pytest.mark.parametrize(("prompt", "answer"), [("text", "label"), ("question", "answer")])
def test_the_columns_are_read_by_their_names_in_every_command(prompt, answer, cli, tmp_path):
    source, out = tmp_path / "rows.csv", tmp_path / "out.jsonl"
    source.write_text(f"id,{prompt},{answer}\n1,My card is lost,card\n2,Where is my parcel,parcel\n")
    for arguments in (("data", "check", source), ("data", "import", source, "--out", out), ("init", "--from", source, tmp_path)):
        shown = " ".join(cli(*map(str, arguments)).out.split())
        assert f"prompt = {prompt}, completion = {answer}" in shown
        assert "unused id kept as metadata" in shown
    assert json.loads(out.read_text().splitlines()[0])["messages"][-1]["content"] == "card"
    assert "2 text" in cli("data", "check", str(source), "--format", "text", "--map", f"text={prompt}").out


def test_rows_to_review_come_before_training(cli, tmp_path):
    rows = [{"prompt": "Where is my order?", "completion": answer} for answer in ("It shipped on Monday.", "We lost it.")]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    result = cli("data", "check", str(source))
    assert "1 of 2 rows to review." in result.out
    assert last_command(result) == f"mlxtune init --from {source}"


def test_a_file_that_has_a_recipe_is_to_be_checked_with_it(workspace, cli, monkeypatch):
    monkeypatch.chdir(workspace)
    source = load(workspace / "recipes" / "tiny.toml").source
    (workspace / "recipes" / "broken.toml").write_text("[")
    assert last_command(cli("data", "check", str(source))) == "mlxtune data check recipes/tiny.toml"


def test_accepted_rows_need_no_further_review(cli, tmp_path):
    answers = ["I hope this helps!", "Feel free to ask.", "It shipped on Monday."]
    rows = [{"prompt": f"Where is order {number}?", "completion": answer} for number, answer in enumerate(answers)]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    keyed = list(with_keys(read_source(source).rows))
    for accepted, outcome in ((0, "look"), (1, "look"), (2, "clean")):
        with ReviewSession(source) as session:
            session.decide("accept", keyed[:accepted])
        report = cli("data", "check", str(source), "--json").json
        assert (report["outcome"], report["rows"]["accepted"], report["rows"]["to_review"]) == (outcome, accepted, 2 - accepted)
        assert finding_lines(report) == {"boilerplate": [1, 2]}
        note = f", {accepted} accepted" if accepted else ""
        assert f" 2 rows{note}\n" in cli("data", "check", str(source)).out


def test_a_warning_about_all_rows_is_no_warning_about_single_ones(cli, tmp_path):
    pairs = [{"prompt": f"Question {number}?", "chosen": f"{number} " * 30, "rejected": f"{number}."} for number in range(40)]
    source = write_rows(tmp_path / "pairs.jsonl", pairs)
    report = cli("data", "check", str(source), "--json").json
    assert (report["outcome"], report["rows"]["to_review"], report["rows"]["source_warnings"]) == ("look", 0, 1)


def test_the_last_command_keeps_the_format(cli, tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({"text": "My key is AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q", "messages": "none"}) + "\n")
    line = last_command(cli("data", "check", str(source), "--format", "text"))
    assert line == f"mlxtune data check {source} --format text --fix"
    assert cli(*line.split()[1:]).code == 0


def test_a_wrong_map_is_not_fixed_by_leaving_every_row_out(refused, cli, tmp_path):
    rows = [{"question": f"How much is {number}?", "answer": f"It is {number}."} for number in range(60)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert cli("init", str(tmp_path), "--from", str(tmp_path / "rows.jsonl")).code == 0
    recipe = tmp_path / "recipes" / "rows.toml"
    recipe.write_text(recipe.read_text().replace('completion = "answer"', 'completion = "answr"'))
    refused(("data", "check", str(recipe), "--fix"), "rows.jsonl has no row that can be read, so nothing can be fixed.")
    assert "data.map in a recipe" in " ".join(cli("data", "check", str(recipe)).out.split())
    line = last_command(cli("data", "check", str(recipe), "--map", "prompt=question,completion=answer"))
    *_, override = shlex.split(line)
    assert load(recipe, [override]).data.map == {"prompt": "question", "completion": "answer"}


@pytest.mark.slow
def test_after_a_fix_the_base_is_evaluated(cli, tmp_path):
    secret = {"prompt": "My key is AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q", "completion": "Revoke it."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(secret) + "\n")
    assert cli("init", str(tmp_path), "--from", str(tmp_path / "rows.jsonl")).code == 0
    recipe = tmp_path / "recipes" / "rows.toml"
    assert last_command(cli("data", "check", str(recipe), "--fix")) == f"mlxtune eval {recipe}"


def test_once_the_base_was_evaluated_a_recipe_is_trained_on_the_fixed_rows(cli, tmp_path, monkeypatch):
    questions = [f"How much is {number * number} plus {number}?" for number in range(60)]
    rows = [{"question": question, "answer": f"It is {number}."} for number, question in enumerate(questions)]
    rows[0]["question"] += " My key is AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q"
    write_rows(tmp_path / "rows.jsonl", rows)
    assert cli("init", str(tmp_path), "--from", str(tmp_path / "rows.jsonl")).code == 0
    recipe = tmp_path / "recipes" / "rows.toml"
    recipe.write_text(recipe.read_text().replace("map = {", 'format = "completion"\nmap = {'))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evals" / "1").mkdir(parents=True)
    (tmp_path / "evals" / "1" / "recipe.toml").write_text(recipe.read_text())
    with EventWriter(tmp_path / "evals" / "1") as writer:
        writer.emit("run.started", kind="eval", name="rows", base="smollm2-135m", pid=1, host="h")
        writer.emit("run.finished", summary={})
    line = last_command(cli("data", "check", str(recipe), "--fix"))
    assert line == f"mlxtune train {recipe.relative_to(Path.cwd())}"
    monkeypatch.setattr(launch, "start", lambda *_: Run(tmp_path / "runs" / "1"))
    monkeypatch.setattr(preflight, "resolve", lambda *_, **__: SimpleNamespace(config={}))
    result = cli(*shlex.split(line)[1:], "--detach")
    assert (result.code, result.out) == (0, "1\n"), result.err


def test_the_last_command_for_a_recipe_keeps_the_format(cli, tmp_path):
    """Without it, these texts would be read as the turns of a transcript, and the record of the second kind not at all."""
    source = tmp_path / "rows.jsonl"
    rows = [{"text": f"Human: How much is {number}?\n\nAssistant: {number} euros."} for number in range(3)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + json.dumps({"text": "Closed.", "messages": "none"}) + "\n")
    line = last_command(cli("data", "check", str(source), "--format", "text"))
    assert line == f"mlxtune init --from {source} --format text"
    assert cli("init", str(tmp_path), *line.split()[2:]).code == 0
    recipe = load(tmp_path / "recipes" / "rows.toml")
    assert recipe.data.format == "text"
    assert {row.format for row in read_source(recipe.source, recipe.data).rows} == {"text"}


@pytest.mark.slow
def test_init_from_writes_a_recipe_that_can_be_checked(ok, cli, tmp_path):
    shown = ok("init", str(tmp_path), "--from", str(SAMPLES / "reviews.jsonl"))
    assert "reviews.schema.json" in shown.out
    assert cli("data", "check", str(tmp_path / "recipes" / "reviews.toml")).code == 0
    assert "already exists" in cli("init", str(tmp_path), "--from", str(SAMPLES / "reviews.jsonl")).err
    assert "There is no data" in cli("init", "--from", "nosuch.jsonl").err
    assert "require --from" in cli("init", str(tmp_path), "--name", "x").err


def test_columns_with_names_of_their_own_are_proposed_as_prompt_and_answer(cli, cwd):
    rows = (
        ("My tent leaks at the seam", "Send it in please"),
        ("Where is parcel LF-1?", "It left us today"),
        ("Lamp is dead", "We send one"),
    )
    (cwd / "t.csv").write_text("ticket,agent_answer,queue\n" + "".join(f"{ask},{answer},q\n" for ask, answer in rows))
    result = cli("data", "check", "t.csv")
    assert result.code == 1
    assert "mlxtune data check t.csv --map prompt=ticket,completion=agent_answer" in result.out
    assert "--map text=" not in result.out


def test_fix_reads_rows_in_another_encoding(cli, cwd):
    rows = ('{"prompt": "é?", "completion": "Ja."}\n', '{"prompt": "Zürich?", "completion": "Nein."}\n')
    (cwd / "t.jsonl").write_bytes(rows[0].encode() + rows[1].encode("cp1252"))
    assert "rows in another encoding" in cli("data", "check", "t.jsonl").out
    assert "1 changed" in cli("data", "check", "t.jsonl", "--fix").out
    assert [row.messages[0].content for row in read_source(cwd / "t.jsonl").rows] == ["é?", "Zürich?"]
