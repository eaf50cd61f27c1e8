import dataclasses
import json
import shutil

import jsonschema
import pytest
from evaluation_files import BAD, GOOD, add_off_task, write_evaluation

from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_file
from mlxtune.core.json_fields import to_json
from mlxtune.data.rows import Location
from mlxtune.evaluation import evidence, report, verdict
from mlxtune.evaluation.evidence import FILES
from mlxtune.evaluation.holdout.ledger import ledger_path, record
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, compare_off_task
from mlxtune.evaluation.statistics import clusters, intervals
from mlxtune.evaluation.verify import schema, unproven, verify


def _change(folder, name, old, new, *, hash_too=False):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    if hash_too:
        report_json = json.loads((folder / "report.json").read_text())
        report_json["files"][name] = sha256_file(folder / name)
        (folder / "report.json").write_text(json.dumps(report_json))


@pytest.fixture
def folder(tmp_path):
    return write_evaluation(tmp_path)


@pytest.mark.parametrize("pairs", [False, True])
def test_moved_report_verifies_without_its_source(tmp_path, pairs):
    folder = write_evaluation(tmp_path, pairs=pairs)
    shutil.move(folder, tmp_path / "elsewhere")
    for file in ("shop.jsonl", "schema.json", "shop.toml"):
        (tmp_path / file).unlink()
    assert verify(tmp_path / "elsewhere") == []


def test_lone_surrogates_and_line_separators_verify(tmp_path):
    odd = ['{"reply": "\ud800"}', "\u2028\u2029\r\n\x00", "\U0001f600", "“”"]
    assert verify(write_evaluation(tmp_path, base=[BAD] * 4, tuned=odd)) == []


def test_every_byte_of_every_file_is_verified(tmp_path):
    folder = write_evaluation(tmp_path, pairs=True)
    names = [name for name in (*FILES, *report.PAGES) if (folder / name).is_file()]
    assert len(names) == 8
    for name in names:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        assert any(name in difference for difference in verify(folder)), name
        (folder / name).write_bytes(data)
    assert verify(folder) == []


def test_missing_answer_and_changed_order_are_detected(folder):
    lines = (folder / "outputs.jsonl").read_text().splitlines(keepends=True)
    for changed in (lines[1:], [lines[1], lines[0], *lines[2:]]):
        (folder / "outputs.jsonl").write_text("".join(changed))
        assert any("the answers of base do not match the rows" in difference for difference in verify(folder))


def test_missing_and_inconsistent_free_arms_are_detected(tmp_path):
    folder = write_evaluation(tmp_path, base=[BAD] * 4, constant=[GOOD] * 4, copier=[GOOD, BAD] * 2, tuned=[GOOD] * 4)
    assert verify(folder) == []
    _change(folder, "outputs.jsonl", json.dumps(GOOD), json.dumps("{}"), hash_too=True)
    assert "outputs.jsonl, constant: the answers differ from each other." in verify(folder)
    shutil.rmtree(folder)
    folder = write_evaluation(tmp_path, base=[BAD] * 4, tuned=[GOOD] * 4)
    _edit(folder, lambda stored: stored["facts"].pop("left_out"))
    assert "outputs.jsonl lacks the arm copier." in verify(folder)


def test_float_rounding_is_not_a_difference(folder):
    report_json = json.loads((folder / "report.json").read_text())
    report_json["arms"][0]["rates"][0]["low"] *= 1 + 1e-15
    (folder / "report.json").write_text(json.dumps(report_json))
    assert verify(folder) == []
    report_json["arms"][0]["rates"][0]["low"] *= 1 + 1e-9
    (folder / "report.json").write_text(json.dumps(report_json))
    assert len(verify(folder)) == 1


def test_added_or_removed_file_is_detected(folder):
    (folder / "seeds.jsonl").write_text("")
    (folder / "report.md").unlink()
    assert verify(folder)[:2] == ["report.md is missing.", "seeds.jsonl did not exist when the report was made."]


def test_report_of_another_version_is_refused(folder):
    for version in (report.VERSION - 1, report.VERSION + 1, None):
        _edit(folder, lambda stored, version=version: stored.update(v=version))
        with pytest.raises(InputError, match="another version"):
            verify(folder)


def test_schema_lists_exactly_the_report_fields():
    kinds = {
        "arm": report.ArmResult, "rate": report.Rate, "mean": clusters.ClusterMean, "paired": intervals.PairedCounts,
        "comparison": verdict.Comparison, "score_comparison": verdict.ScoreComparison, "verdict": verdict.Verdict,
    }  # fmt: skip
    for name, kind in kinds.items():
        keys = {field.metadata.get("key", field.name): not field.metadata.get("optional") for field in dataclasses.fields(kind)}
        assert set(schema()["$defs"][name]["properties"]) == set(keys), name
        assert set(schema()["$defs"][name]["required"]) == {key for key, required in keys.items() if required}, name
    assert set(schema()["properties"]) == {field.name for field in dataclasses.fields(report.EvaluationReport)} | {"v", "files"}


def _edit(folder, change):
    """Change report.json and update all hashes, as a forger would."""
    stored = json.loads((folder / "report.json").read_text())
    change(stored)
    stored["files"] = {name: sha256_file(folder / name) for name in stored["files"] if (folder / name).is_file()}
    (folder / "report.json").write_text(json.dumps(stored))


def _edit_lines(folder, name, change, line=0):
    """Change a line of a file with evidence and update all hashes."""
    records = [json.loads(text) for text in (folder / name).read_text().splitlines()]
    change(records[line])
    (folder / name).write_text(evidence.to_jsonl(records))
    _edit(folder, lambda stored: None)


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """An evaluation of pairs with off-task answers and two seeds, whose report verifies."""
    folder = write_evaluation(tmp_path_factory.mktemp("rich"), pairs=True, base=[BAD, GOOD] * 6, tuned=[GOOD] * 10 + [BAD, ""])
    add_off_task(folder, base=["yes"] * 20 + ["no"] * 10, tuned=["no"] * 5 + ["yes"] * 15 + ["no"] * 10)
    assert verify(folder) == []
    jsonschema.validate(json.loads((folder / "report.json").read_text()), schema())
    return folder


@pytest.fixture
def rich_copy(rich, tmp_path):
    return shutil.copytree(rich, tmp_path / "copy")


def _set(*path):
    *parents, key, value = path

    def change(stored):
        for parent in parents:
            stored = stored[parent]
        assert stored[key] != value, path
        stored[key] = value

    return change


# One value of each part, and those that only reports of pairs have. tests/attacks changes every value of a report.
TAMPERED_REPORTS = [
    ("facts", "name", "other"), ("facts", "holdout", "look", 2), ("facts", "off_task", "overall", "low", -0.01),
    ("facts", "off_task", "categories", 0, "prompts", 29), ("arms", 0, "rates", 0, "hits", 7), ("arms", 0, "margin", "value", 0.3),
    ("arms", 0, "margin", "groups", 11), ("comparisons", 0, "paired", "fixed", 6), ("margins", 0, "rose", 0), ("margins", 0, "change", 0.9),
    ("margins", 0, "outcome", "worse"), ("verdict", "headline", "change", 0.5),
]  # fmt: skip


@pytest.mark.parametrize("path", TAMPERED_REPORTS, ids=lambda path: ".".join(map(str, path)))
def test_an_edited_report_is_detected(rich_copy, path):
    _edit(rich_copy, _set(*path))
    problems = verify(rich_copy)
    assert any(f"{path[-2]}" in problem or f"{path[-3]}" in problem for problem in problems), problems


TAMPERED_LINES = [
    ("outputs.jsonl", "nats", 9.0), ("outputs.jsonl", "tokens", 2), ("outputs.jsonl", "rejected", [9.0, 1]), ("outputs.jsonl", "arm", "tuned"),
    ("outputs.jsonl", "answer_tokens", 999), ("outputs.jsonl", "ended", "length"), ("regression.jsonl", "accept", ["maybe"]),
    ("questions.jsonl", "group", "same"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value"), TAMPERED_LINES)
def test_an_edited_line_is_detected_even_with_updated_hash(rich_copy, name, key, value):
    if value == "same":
        value = json.loads((rich_copy / name).read_text().splitlines()[5])[key]
    _edit_lines(rich_copy, name, _set(key, value))
    assert verify(rich_copy)


@pytest.mark.parametrize("page", report.PAGES)
@pytest.mark.parametrize(
    ("old", "new"), [("annot tell", "etter"), ("Wilson", "Wilson 99.9%"), ("dropped", "held"), ("Failures", "Failures 5")]
)
def test_an_edited_figure_on_a_page_is_detected(rich_copy, page, old, new):
    text = (rich_copy / page).read_text()
    assert old in text, old
    (rich_copy / page).write_text(text.replace(old, new, 1))
    _edit(rich_copy, lambda stored: None)
    (problem,) = verify(rich_copy)
    assert problem.startswith(f"{page} shows ")


def test_an_invented_off_task_result_is_detected(folder):
    result = compare_off_task([OffTaskPrompt("q", "Which?", ("yes",), Location(folder, 1))], ["yes"], ["yes"])
    _edit(folder, lambda stored: stored["facts"].update(off_task=to_json(result)))
    assert "report.json, facts, off_task is only stored." in verify(folder)


def test_facts_are_recomputed_or_named_as_unproven(folder):
    stored = json.loads((folder / "report.json").read_text())
    recorded = unproven(folder)
    assert {"source", "run", "adapter", "made"} < set(recorded)
    for key in stored["facts"].keys() - set(recorded):
        other = {str: "x", int: 99, float: 0.04, list: [], dict: {"kind": "greedy", "max_tokens": 99}}[type(stored["facts"][key])]
        _edit(folder, _set("facts", key, other))
        assert verify(folder), key
        _edit(folder, _set("facts", key, stored["facts"][key]))
    assert verify(folder) == []


def test_a_repeated_key_is_detected(folder):
    path = folder / "report.json"
    path.write_text(path.read_text().rstrip()[:-1] + ', "verdict": ' + json.dumps(json.loads(path.read_text())["verdict"]) + "}")
    assert ["the key 'verdict' occurs twice" in problem for problem in verify(folder)] == [True]


def test_a_number_that_no_float_can_hold_is_a_difference(folder):
    _change(folder, "report.json", '"hits": 3', f'"hits": {10**400}')
    assert any("rates json, hits is stored as 1000" in problem for problem in verify(folder))


def test_a_report_about_rows_that_another_folder_and_an_export_used_is_correct(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = write_evaluation(tmp_path / "one")
    record(ledger_path(first), "fidelity", "q4", report.load(first).facts["row_ids"], result="r", adapter="a")
    second = write_evaluation(tmp_path / "two")
    facts = report.load(second).facts["holdout"]
    assert (facts["ledger"], facts["models"]) == ("ledger_elsewhere", 1)
    assert verify(second) == []
