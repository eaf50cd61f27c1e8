from __future__ import annotations

import json
import os

import pytest
from measured import measured


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("named", ["last", "shop", "evals/20261124-1412-shop", "evals/20261124-1412-shop/report.json"])
def test_a_report_that_holds(cli, place, named):
    measured(place)
    ended = cli("verify", named)
    assert (ended.code, ended.err) == (0, "")
    assert "✓ The report holds: 14 rates and 4 comparisons of 4 rows come out the same again." in ended.out
    assert "Cannot tell." in ended.out


def test_what_is_better_and_not_to_be_promoted_is_said(cli, place, monkeypatch):
    measured(place)
    monkeypatch.setattr("mlxtune.cli.verify.reservation", lambda _: "off-task answers dropped from 20 to 15 of 34")
    ended = cli("verify")
    assert ended.code == 0
    assert "! The adapter is not to be promoted: off-task answers dropped from 20 to 15 of 34." in ended.out


def test_one_byte_of_an_output_makes_it_fail(cli, place):
    folder = measured(place)
    data = (folder / "outputs.jsonl").read_bytes()
    (folder / "outputs.jsonl").write_bytes(data.replace(b"near", b"neat", 1))
    ended = cli("verify")
    assert ended.code == 1
    assert "✗ outputs.jsonl was changed: its sha256 is" in ended.out
    assert "✗ outputs.jsonl, base, " in ended.out
    assert "The report does not hold: 3 differences." in ended.err


def test_each_difference_is_named_in_json(cli, place):
    folder = measured(place)
    text = (folder / "report.json").read_text()
    (folder / "report.json").write_text(text.replace('"hits": 3', '"hits": 4', 1))
    ended = cli("verify", "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["holds"]) == (1, False)
    assert found["differences"] == ["report.json, arms tuned, rates json, hits is told as 4, and recomputed as 3."]


def test_what_is_no_evaluation_is_bad_input(cli, place):
    (place / "report.json").write_text("{}")
    for named in ("report.json", "nothing/report.json", "nothing"):
        assert cli("verify", named).code == 2
