from __future__ import annotations

import dataclasses
import json
import shutil

import jsonschema
import pytest
from evaluation_files import BAD, GOOD, write_evaluation

from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_file
from mlxtune.data.rows import Location
from mlxtune.evaluation import report, verdict
from mlxtune.evaluation.evidence import FILES, save_off_task
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt
from mlxtune.evaluation.off_task.result import compare_off_task
from mlxtune.evaluation.render.publish import publish
from mlxtune.evaluation.statistics import bootstrap, intervals
from mlxtune.evaluation.verify import schema, unverified, verify


def _change(folder, name, old, new, *, hash_too=False):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    if hash_too:
        report_json = json.loads((folder / "report.json").read_text())
        report_json["files"][name] = sha256_file(folder / name)
        (folder / "report.json").write_text(json.dumps(report_json))


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


def test_edited_output_is_detected_even_with_updated_hash(tmp_path):
    folder = write_evaluation(tmp_path)
    _change(folder, "outputs.jsonl", '"output": "It is near"', json.dumps({"output": GOOD})[1:-1], hash_too=True)
    differences = verify(folder)
    assert any("outputs.jsonl, base" in difference and "only stored" in difference for difference in differences)
    assert "report.json, arms base, rates contract, hits is stored as 1 but recomputed as 2." in differences


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"hits": 3', '"hits": 2', "rates json, hits"),
        ('"low": 0.', '"low": 0.0', "low"),
        ('"fixed": 2', '"fixed": 3', "paired, fixed"),
        ('"word": "cannot tell"', '"word": "better"', "word"),
        ('"verdict": "Cannot tell', '"verdict": "Better', "verdict"),
        ('"rows": 4', '"rows": 5', "facts, rows"),
        ('"headline": "contract"', '"headline": "json"', "facts, headline"),
        ('"prose": 3', '"prosy": 3', "failures"),
    ],
)
def test_edited_report_is_detected(tmp_path, old, new, where):
    folder = write_evaluation(tmp_path)
    _change(folder, "report.json", old, new)
    assert any(where in difference for difference in verify(folder))


def test_edited_preference_is_detected(tmp_path):
    folder = write_evaluation(tmp_path, pairs=True)
    _change(folder, "preferences.jsonl", '"chosen": -1.0', '"chosen": -9.0', hash_too=True)
    differences = verify(folder)
    assert any("rates preference, hits" in difference for difference in differences)
    assert any("margin, value" in difference for difference in differences)


def test_missing_answer_and_changed_order_are_detected(tmp_path):
    folder = write_evaluation(tmp_path)
    lines = (folder / "outputs.jsonl").read_text().splitlines(keepends=True)
    for changed in (lines[1:], [lines[1], lines[0], *lines[2:]]):
        (folder / "outputs.jsonl").write_text("".join(changed))
        assert any("the answers of base do not match the rows" in difference for difference in verify(folder))


def test_float_rounding_is_not_a_difference(tmp_path):
    folder = write_evaluation(tmp_path)
    report_json = json.loads((folder / "report.json").read_text())
    report_json["arms"][0]["rates"][0]["low"] *= 1 + 1e-15
    (folder / "report.json").write_text(json.dumps(report_json))
    assert verify(folder) == []
    report_json["arms"][0]["rates"][0]["low"] *= 1 + 1e-9
    (folder / "report.json").write_text(json.dumps(report_json))
    assert len(verify(folder)) == 1


def test_added_or_removed_file_is_detected(tmp_path):
    folder = write_evaluation(tmp_path)
    (folder / "preferences.jsonl").write_text("")
    (folder / "report.md").unlink()
    assert verify(folder)[:2] == ["preferences.jsonl did not exist when the report was made.", "report.md is missing."]


def test_report_without_evidence_is_input_error(tmp_path):
    folder = write_evaluation(tmp_path)
    report_json = json.loads((folder / "report.json").read_text())
    del report_json["files"]
    (folder / "report.json").write_text(json.dumps(report_json))
    with pytest.raises(InputError, match="lists no files"):
        verify(folder)


def test_report_of_an_older_version_with_reasoning_in_its_outputs_is_reproduced(tmp_path):
    thought = '<think>Hm.</think>{"reply": "Yes."}'
    folder = write_evaluation(tmp_path, base=[thought, thought], tuned=['{"reply": "Yes."}'] * 2)
    stored = json.loads((folder / "report.json").read_text())
    assert "thought_tokens" not in stored["arms"][0]
    assert report.load(folder).arms[0].rate("json").failures == {"thinking": 2}
    assert verify(folder) == []


def test_schema_lists_exactly_the_report_fields():
    kinds = {
        "arm": report.ArmResult, "rate": report.Rate, "mean": bootstrap.BootstrapMean, "paired": intervals.PairedCounts,
        "comparison": verdict.Comparison, "score_comparison": verdict.ScoreComparison,
    }  # fmt: skip
    for name, kind in kinds.items():
        keys = {field.metadata.get("key", field.name): not field.metadata.get("optional") for field in dataclasses.fields(kind)}
        assert set(schema()["$defs"][name]["properties"]) == set(keys), name
        assert set(schema()["$defs"][name]["required"]) == {key for key, required in keys.items() if required}, name
    assert set(schema()["properties"]) == {field.name for field in dataclasses.fields(report.EvaluationReport)} | {"v", "files"}


def test_off_task_answers_are_recomputed_in_new_and_older_reports(tmp_path):
    for older in (False, True):
        (tmp_path / str(older)).mkdir()
        folder = write_evaluation(tmp_path / str(older))
        probes = [OffTaskPrompt(f"q{at}", "Which?", ("yes",), Location(folder, at + 1)) for at in range(30)]
        answers = {"base": ["yes"] * 20 + ["no"] * 10, "tuned": ["no"] * 5 + ["yes"] * 15 + ["no"] * 10}
        save_off_task(folder, probes, answers)
        result = compare_off_task(probes, *answers.values())
        facts = {"regression": result.legacy_record()} if older else {"off_task": to_json(result)}
        loaded = report.load(folder)
        publish(dataclasses.replace(loaded, facts={**loaded.facts, **facts}), folder)
        assert verify(folder) == []
        jsonschema.validate(json.loads((folder / "report.json").read_text()), schema())
        _change(folder, "regression.jsonl", '"output": "yes"', '"output": "no"', hash_too=True)
        assert any("broken" in difference or "base" in difference for difference in verify(folder))


def _forge(folder, **facts):
    """Change facts of the report and update all hashes, as a forger would."""
    stored = json.loads((folder / "report.json").read_text())
    stored["facts"] |= facts
    stored["files"] = {name: sha256_file(folder / name) for name in stored["files"] if (folder / name).is_file()}
    (folder / "report.json").write_text(json.dumps(stored))


@pytest.mark.parametrize("key", ["off_task", "regression"])
def test_an_invented_off_task_result_is_detected(tmp_path, key):
    folder = write_evaluation(tmp_path)
    result = compare_off_task([OffTaskPrompt("q", "Which?", ("yes",), Location(folder, 1))], {"q": "yes"}, {"q": "yes"})
    _forge(folder, **{key: result.legacy_record() if key == "regression" else to_json(result)})
    assert f"report.json, facts, {key} is only stored." in verify(folder)


@pytest.mark.parametrize("page", report.PAGES)
def test_a_rewritten_page_is_detected_even_with_updated_hash(tmp_path, page):
    folder = write_evaluation(tmp_path)
    text = (folder / page).read_text()
    (folder / page).write_text(text.replace("Cannot tell", "Better"))
    _forge(folder)
    assert verify(folder) == [f"{page} is not what report.json and the outputs render to."]


def test_pages_of_another_version_are_called_unverified(tmp_path):
    folder = write_evaluation(tmp_path)
    renderer = json.loads((folder / "report.json").read_text())["facts"]["renderer"]
    assert not set(report.PAGES) & set(unverified(folder))
    for facts in ({"renderer": "0" * 64}, {"renderer": renderer, "wording": report.WORDING - 1}):
        _forge(folder, **facts)
        assert verify(folder) == []
        assert set(report.PAGES) < set(unverified(folder))


def test_adjusted_p_values_of_another_version_are_called_unverified(tmp_path):
    folder = write_evaluation(tmp_path)
    stored = json.loads((folder / "report.json").read_text())
    stored["comparisons"][-1].update(adjusted=1.0, word="cannot tell")
    (folder / "report.json").write_text(json.dumps(stored))
    _forge(folder, renderer="0" * 64)
    assert any("adjusted" in problem for problem in verify(folder))
    _forge(folder, wording=report.WORDING - 1)
    assert verify(folder) == []
    assert {"adjusted p-values", "outcomes", "verdict"} < set(unverified(folder))


def test_classes_of_differences_of_another_version_are_called_unverified(tmp_path):
    folder = write_evaluation(tmp_path, contract=False)
    stored = json.loads((folder / "report.json").read_text())
    rate = stored["arms"][0]["rates"][0]
    rate["failures"] = {"another class": sum(rate["failures"].values())}
    (folder / "report.json").write_text(json.dumps(stored))
    _forge(folder, renderer="0" * 64)
    assert any("another class" in problem for problem in verify(folder))
    _forge(folder, wording=report.WORDING - 1)
    assert verify(folder) == []
    assert "classes of differences from references" in unverified(folder)


def test_facts_are_recomputed_or_called_unverified(tmp_path):
    folder = write_evaluation(tmp_path)
    stored = json.loads((folder / "report.json").read_text())
    recorded = unverified(folder)
    assert {"looks", "ledger", "run", "adapter", "made"} < set(recorded)
    for key in stored["facts"].keys() - set(recorded) - {"wording", "renderer"}:
        other = {str: "x", int: 99, list: [], dict: {"kind": "greedy", "max_tokens": 99}}[type(stored["facts"][key])]
        _forge(folder, **{key: other})
        assert verify(folder), key
        _forge(folder, **{key: stored["facts"][key]})
    assert verify(folder) == []


def test_a_repeated_key_is_detected(tmp_path):
    folder = write_evaluation(tmp_path)
    path = folder / "report.json"
    path.write_text(path.read_text().rstrip()[:-1] + ', "verdict": ' + json.dumps(json.loads(path.read_text())["verdict"]) + "}")
    assert ["the key 'verdict' occurs twice" in problem for problem in verify(folder)] == [True]


def test_a_number_that_no_float_can_hold_is_a_difference(tmp_path):
    folder = write_evaluation(tmp_path)
    _change(folder, "report.json", '"hits": 3', f'"hits": {10**400}')
    assert any("rates json, hits is stored as 1000" in problem for problem in verify(folder))
