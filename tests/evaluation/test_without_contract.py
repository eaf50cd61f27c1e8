"""An evaluation of a recipe without a contract says so, and compares answers with their references instead."""

import pytest
from evaluation_files import BAD, GOOD, write_evaluation
from in_process_workers import create_run

from mlxtune.cli.evaluate import show_report
from mlxtune.core.errors import InputError
from mlxtune.evaluation import report as reports
from mlxtune.evaluation import worker
from mlxtune.evaluation.drilldown import failed_rows
from mlxtune.evaluation.history import evaluations
from mlxtune.evaluation.verify import verify
from mlxtune.present.blocks import Fact
from mlxtune.present.report import report_document
from mlxtune.present.verdict import contract_fact
from mlxtune.recipe import load
from mlxtune.runs.worker import Worker
from mlxtune.training.preflight import check_recipe
from mlxtune.tui import draw
from mlxtune.tui.rooms.evaluate import render
from mlxtune.tui.rooms.evaluate.service import load_report

ANSWERS = {"base": [BAD] * 8, "tuned": [GOOD] * 8}


def test_the_verdict_is_about_the_references(tmp_path):
    folder = write_evaluation(tmp_path, contract=False, **ANSWERS)
    report = reports.load(folder)
    assert [rate.metric for rate in report.arms[1].rates] == ["correct"]
    assert (report.answer_metric, report.contract, report.outcome) == ("correct", None, "better")
    assert (report.verdict.metric, report.verdict.headline.change) == ("correct", 1.0)
    assert verify(folder) == []


def test_pairs_are_compared_by_preference(tmp_path):
    folder = write_evaluation(tmp_path, pairs=True, contract=False, **ANSWERS)
    report = reports.load(folder)
    assert report.headline_metric == "preference"
    assert report.verdict.contract is None
    assert verify(folder) == []
    assert contract_fact(report) == Fact("contract", "none", "compared by which answer of a pair is more likely")


def test_every_face_says_that_there_is_no_contract(tmp_path, capsys):
    folder = write_evaluation(tmp_path, contract=False, **ANSWERS)
    show_report(reports.load(folder), folder)
    texts = {
        "terminal": " ".join(capsys.readouterr().out.split()),
        "Markdown": (folder / "report.md").read_text(),
        "HTML": (folder / "report.html").read_text(),
        "app": " ".join(render.verdict(load_report(folder), None, 140, 20).plain.split()),
        "report in the app": " ".join(" ".join(row.plain for row in draw.rows(report_document(reports.load(folder)), 100)).split()),
    }
    for face, text in texts.items():
        assert "whole contract" not in text.lower(), face
        assert "orrect" in text, face


def test_the_rows_behind_the_rate_are_those_that_differ(tmp_path):
    folder = write_evaluation(tmp_path, contract=False, base=[BAD, BAD], tuned=[GOOD, BAD])
    assert [row.scores["tuned"].detail for row, _ in failed_rows(folder, reports.load(folder))] == [
        "the output differs from the reference"
    ]


def test_the_app_shows_the_reference_metric_elsewhere(tmp_path):
    write_evaluation(tmp_path, contract=False, **ANSWERS)
    assert [after.metric for _, after in evaluations(tmp_path)[0].changes] == ["correct"]


def test_without_a_tuned_arm_the_verdict_has_the_rates(tmp_path):
    verdict = reports.load(write_evaluation(tmp_path, contract=False, base=[GOOD, BAD])).verdict
    assert (verdict.reason, verdict.metric, verdict.rates) == ("no_adapter", "correct", {"base": 0.5})


def test_free_arms_change_nothing_where_only_the_base_was_measured(tmp_path):
    write_evaluation(tmp_path, contract=False, base=[GOOD, BAD], constant=[GOOD, GOOD], copier=[GOOD, BAD])
    assert evaluations(tmp_path)[0].changes == ()


def test_a_part_that_a_reference_lacks_names_the_row(workspace):
    recipe = load(workspace / "recipes" / "tiny.toml", ['evaluation.correct=["/absent"]'])
    with pytest.raises(InputError, match=r"line \d+: the reference has no /absent"):
        check_recipe(recipe)


def test_without_references_there_is_nothing_to_measure(workspace):
    source = workspace / "bad.jsonl"
    source.write_text(
        "".join(f'{{"prompt": "Where is parcel {index}?", "completion": "Lost {index}.", "label": false}}\n' for index in range(40))
    )
    recipe = load(workspace / "recipes" / "tiny.toml", [f"data.source={source}", "method.kind=kto", "evaluation.forbid=[]"])
    folder = create_run(workspace, "eval", recipe).folder
    with pytest.raises(InputError, match="No held-out row has a reference"):
        worker.evaluate(Worker(folder))
