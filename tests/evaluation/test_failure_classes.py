"""Failed rows are classed by what is wrong, with what would help."""

from __future__ import annotations

import json

from mlxtune.data.rows import Message
from mlxtune.evaluation.answers import Answer
from mlxtune.evaluation.drilldown import FailureClass, ScoredRow, failure_classes
from mlxtune.evaluation.evidence import EvaluatedRow, NearestRow
from mlxtune.evaluation.scorers import Score
from mlxtune.present.report import classes_table

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
    assert isinstance(one, FailureClass)
    cells = [cell.text for cell in classes_table([one], "tuned").rows[0]]
    assert cells == ["2", "label /category: other, not billing", "more rows of this kind", "2", "line 0: Where is it?"]
