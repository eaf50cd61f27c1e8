from __future__ import annotations

import json

import pytest
from evaluation_files import write_evaluation


@pytest.mark.parametrize("name", ["last", "shop", "evals/20261124-1412-shop", "evals/20261124-1412-shop/report.json"])
def test_a_correct_report(cli, cwd, name):
    write_evaluation(cwd)
    result = cli("verify", name)
    assert (result.code, result.err) == (0, "")
    assert "✓ The report is correct: 14 rates and 4 comparisons for 4 rows were recomputed with identical results." in result.out
    assert "Cannot tell." in result.out
    assert "Recorded by the evaluation, not recomputed: adapter, base_fingerprint, compute, ledger, looks, made, run" in result.out


def test_a_promotion_caveat_is_printed(cli, cwd, monkeypatch):
    write_evaluation(cwd)
    monkeypatch.setattr("mlxtune.cli.verify.promotion_caveat", lambda _: "off-task answers dropped from 58.0% to 44.0%")
    result = cli("verify")
    assert result.code == 0
    assert "! Not recommended: off-task answers dropped from 58.0% to 44.0%." in result.out


def test_a_changed_byte_of_an_output_fails(cli, cwd):
    folder = write_evaluation(cwd)
    data = (folder / "outputs.jsonl").read_bytes()
    (folder / "outputs.jsonl").write_bytes(data.replace(b"near", b"neat", 1))
    result = cli("verify")
    assert result.code == 1
    assert "✗ outputs.jsonl was changed: its sha256 is" in result.out
    assert "✗ outputs.jsonl, base, " in result.out
    assert "The report does not match its outputs: 3 differences." in result.err


def test_json_lists_each_difference(cli, cwd):
    folder = write_evaluation(cwd)
    text = (folder / "report.json").read_text()
    (folder / "report.json").write_text(text.replace('"hits": 3', '"hits": 4', 1))
    result = cli("verify", "--json")
    document = json.loads(result.out)
    assert (result.code, document["holds"]) == (1, False)
    assert document["differences"] == ["report.json, arms tuned, rates json, hits is stored as 4 but recomputed as 3."]


def test_a_missing_evaluation_is_bad_input(cli, cwd):
    (cwd / "report.json").write_text("{}")
    for name in ("report.json", "nothing/report.json", "nothing"):
        assert cli("verify", name).code == 2
