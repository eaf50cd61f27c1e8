"""The rows behind the numbers of a report, and the classes of the failed ones."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from evaluation_files import BAD, GOOD, write_evaluation

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Message
from mlxtune.evaluation import evidence, report
from mlxtune.evaluation.answers import Answer, ArmAnswers, score_answers
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.drilldown import Drilldown, ScoredRow, failure_classes
from mlxtune.evaluation.evidence import EvaluatedRow, NearestRow
from mlxtune.evaluation.scorers import Score
from mlxtune.present.report import classes_table


def test_row_lists_match_every_report_number(tmp_path):
    for pairs in (False, True):
        folder = write_evaluation(tmp_path / str(pairs), pairs=pairs) if (tmp_path / str(pairs)).mkdir() is None else None
        loaded, rows = report.load(folder), Drilldown(folder)
        assert set(rows.metrics) == {rate.metric for rate in loaded.arms[0].rates}
        for arm in loaded.arms:
            for rate in arm.rates:
                assert len(rows.rows_for(rate.metric, arm.name)) == rate.total
                assert len(rows.rows_for(rate.metric, arm.name, passed=True)) == rate.hits
                failed = rows.rows_for(rate.metric, arm.name, passed=False)
                assert Counter(kind for row in failed for kind in row.scores[arm.name].kinds) == rate.failures
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


PROMPT = "My parcel has not arrived, and the invoice has the wrong address on it."


def failed(name: str, kind: str, expected: object, given: object, *near: tuple[str, object]) -> ScoredRow:
    def answer(value: object) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    links = tuple(
        NearestRow(f"{name}{at}", "rows.jsonl", at, text, 0.5, (), answer=answer(value)) for at, (text, value) in enumerate(near)
    )
    row = EvaluatedRow(name, 1, name, answer(expected), (Message("user", PROMPT),))
    return ScoredRow(row, {"tuned": Answer(name, answer(given), "stop")}, {"tuned": Score(False, kind)}, links)


def classes(*rows: ScoredRow, few: bool = False) -> list[tuple[str, str, int, str, str]]:
    found = failure_classes(rows, "tuned", has_few_updates=few)
    return [(one.type, one.remedy, one.evidence, one.expected, one.given) for one in found]


def test_confused_labels_without_such_training_rows_need_more_of_them() -> None:
    rows = [
        failed(name, "/category", {"category": "billing"}, {"category": "other"}, ("?", {"category": "other"})) for name in "abc"
    ]
    once = failed("d", "/category", {"category": "order"}, {"category": "other"}, ("?", {"category": "order"}))
    assert classes(*rows, once) == [("label", "more_rows", 3, "billing", "other"), ("field", "larger_base", 1, "", "")]
    assert classes(once, few=True) == [("field", "more_updates", 1, "", "")]


def test_a_near_copy_with_the_given_label_is_a_contradiction() -> None:
    rows = [failed(name, "other", "billing", "account", (PROMPT.upper(), "account")) for name in "ab"]
    assert classes(*rows) == [("label", "contradiction", 2, "billing", "account")]


def test_calls_cut_answers_and_broken_form() -> None:
    call = {"name": "pay", "arguments": {"amount": 3}}
    near = ("?", [call])
    assert classes(failed("a", "no_call", [call], "Sure.", near))[0][0] == "function"
    assert classes(failed("a", "/name", [call], [call | {"name": "send"}], near)) == [("function", "larger_base", 1, "", "")]
    assert classes(failed("a", "cut_off", "x", "x x x")) == [("cut", "longer_answers", 1, "", "")]
    assert classes(failed("a", "not_json", {"a": 1}, "{a: 1}"))[0][:2] == ("format", "grammar")


def test_the_table_names_the_class_and_the_nearest_row() -> None:
    rows = [failed(name, "/category", {"category": "billing"}, {"category": "other"}, ("Where is it?", {})) for name in "ab"]
    (one,) = failure_classes(rows, "tuned")
    cells = [cell.text for cell in classes_table([one], "tuned").rows[0]]
    assert cells == ["2", "label /category: other, not billing", "more rows of this kind", "2", "line 0: Where is it?"]
