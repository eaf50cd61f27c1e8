import json

import pytest
from evaluation_files import BAD, GOOD, write_evaluation

from mlxtune.core.errors import InputError
from mlxtune.evaluation import evidence, report
from mlxtune.evaluation.answers import ArmAnswers, score_answers
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.drilldown import Drilldown


def test_row_lists_match_every_report_number(tmp_path):
    for pairs in (False, True):
        folder = write_evaluation(tmp_path / str(pairs), pairs=pairs) if (tmp_path / str(pairs)).mkdir() is None else None
        loaded, rows = report.load(folder), Drilldown(folder)
        assert set(rows.metrics) == {rate.metric for rate in loaded.arms[0].rates}
        for arm in loaded.arms:
            for rate in arm.rates:
                assert len(rows.rows_for(rate.metric, arm.name)) == rate.total
                assert len(rows.rows_for(rate.metric, arm.name, passed=True)) == rate.hits
                for kind, count in rate.failures.items():
                    assert len(rows.rows_for(rate.metric, arm.name, kind=kind)) == count
        for item in loaded.comparisons:
            for cell in ("both", "broken", "fixed", "neither"):
                assert len(rows.cell(item.metric, item.first, item.second, cell)) == getattr(item.paired, cell)


def test_row_has_answers_scores_and_failure_location(tmp_path):
    folder = write_evaluation(tmp_path, base=[GOOD, BAD], tuned=['{"reply": "Go to Northpeak"}', GOOD])
    rows = Drilldown(folder)
    [row] = rows.cell("contract", "base", "tuned", "broken")
    assert (row.row.line, row.row.reference, row.answers["base"].output) == (1, GOOD, GOOD)
    assert row.scores["tuned"].kind == "forbidden"
    assert row.answers["tuned"].output[slice(*rows.highlight(row, "contract", "tuned"))] == "Northpeak"
    assert rows.highlight(row, "contract", "base") is None
    assert [near.line for near in row.nearest] == [11, 3, 5]  # two rows share the object, and the last one shares the action
    [fixed] = rows.cell("contract", "base", "tuned", "fixed")
    assert fixed.nearest == ()  # the last arm passes
    assert rows.arms == ("base", "tuned")


def test_unknown_metric_arm_or_answer_is_named(tmp_path):
    folder = write_evaluation(tmp_path)
    rows = Drilldown(folder)
    with pytest.raises(InputError, match="no metric named jsson") as caught:
        rows.rows_for("jsson", "base")
    assert "json" in caught.value.hint
    with pytest.raises(InputError, match="Unknown arm tunned"):
        rows.cell("json", "base", "tunned", "fixed")
    outputs = folder / "outputs.jsonl"
    outputs.write_text("".join(outputs.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match="the answers of base"):
        Drilldown(folder)


def test_malformed_links_are_input_error(tmp_path):
    folder = write_evaluation(tmp_path)
    (folder / "nearest.jsonl").write_text(json.dumps({"id": "a", "nearest": [{"line": 1}]}) + "\n")
    with pytest.raises(InputError, match="unexpected format"):
        Drilldown(folder)


@pytest.mark.parametrize(("ended", "kind"), [("length", "in_a_loop"), ("loop", "in_a_loop"), ("thinking", "reasoning_cut_off")])
def test_reported_metrics_name_the_failures_of_unfinished_answers_like_the_report(tmp_path, ended, kind):
    folder = write_evaluation(tmp_path, base=[BAD, GOOD], tuned=["and so on, " * 40, GOOD])
    recipe, outputs, questions = (folder / name for name in ("recipe.toml", "outputs.jsonl", "questions.jsonl"))
    questions.write_text(questions.read_text().replace("it is near", "it is 5 minutes away"))
    recipe.write_text(recipe.read_text().replace("correct = []", 'correct = ["number"]'))
    outputs.write_text(outputs.read_text().replace('"ended": "stop"', f'"ended": "{ended}"'))
    stored = evidence.load_evidence(folder)
    contract = Contract.from_recipe(stored.recipe)
    arms = [ArmAnswers(arm, score_answers(contract, stored.rows, answers), False, 1.0) for arm, answers in stored.answers.items()]
    evidence.save_outputs(folder, ((arm.name, arm.answers) for arm in arms))
    rows = Drilldown(folder)
    row = next(rows.rows("correct"))
    assert row.scores["tuned"].kind == kind
    again = contract.score(row.row.answer(row.answers["tuned"].output, ended))["correct"]
    assert (row.scores["tuned"], row.scores["tuned"].detail) == (again, again.detail)
