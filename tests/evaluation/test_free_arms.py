"""The arms that generate nothing: a constant answer, and the answer of the nearest training prompt."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlxtune.data.free_rates import FreeRates
from mlxtune.data.rows import Conversation, Location, Message, Unpaired
from mlxtune.data.split import Splits
from mlxtune.evaluation import free_arms as module
from mlxtune.evaluation.answers import Answer
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import evaluated_rows
from mlxtune.evaluation.free_arms import AnsweredRows, constant_answer, copied_answers, free_arms, free_rates, strongest
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.recipe import Disclaimer, EvaluationSection, parse


def _row(question: str, answer: str, line: int = 1) -> Conversation:
    return Conversation(Location(Path("d.jsonl"), line), {}, (Message("user", question), Message("assistant", answer)))


def _known(train: list[str], valid: list[str]) -> AnsweredRows:
    rows = [_row(f"question {index} about {text}", text, index) for index, text in enumerate([*train, *valid])]
    return AnsweredRows(rows[: len(train)], rows[len(train) :])


LABELS = Contract(EvaluationSection(correct=["answer"]))


def test_constant_meets_most_validation_rows():
    assert constant_answer(LABELS, "correct", _known(["a", "a", "a", "b"], ["b", "b", "a"])) == "b"
    assert constant_answer(LABELS, "correct", _known(["a", "b", "b"], [])) == "b"  # without any, most training rows
    assert constant_answer(LABELS, "correct", _known(["a", "b", "b"], ["a", "b"])) == "b"  # training rows break ties


def test_constant_of_the_most_frequent_fields_meets_what_no_training_answer_does():
    contract = Contract(EvaluationSection(pattern=r'"kind": "x".*"note": \{"of": "y"'))
    answers = [
        {"kind": "x", "note": {"of": "n"}}, {"kind": "x", "note": {"of": "m"}}, {"kind": "z", "note": {"of": "y", "rare": 1}},
        {"kind": "w", "note": {"of": "y"}},
    ]  # fmt: skip
    texts = [json.dumps(answer) for answer in answers]
    assert not any(contract.score_metric("contract", ModelAnswer(text)).passed for text in texts)
    assert json.loads(constant_answer(contract, "contract", _known(texts, texts))) == {"kind": "x", "note": {"of": "y"}}
    assert module._most_frequent_fields(Counter(["words", "words", texts[0]])) == []


def test_of_many_candidates_the_best_is_found_on_part_of_the_rows_first(monkeypatch):
    monkeypatch.setattr(module, "_BUDGET", 120)
    scored = []
    score = Contract.score
    monkeypatch.setattr(Contract, "score", lambda self, answer: scored.append(answer) or score(self, answer))
    contract = Contract(EvaluationSection(disclaimers=[Disclaimer("Take care.")]))
    train = [f"answer {index}" for index in range(39)] + ["Take care."]
    assert constant_answer(contract, "contract", _known(train, [f"other {index}" for index in range(30)])) == "Take care."
    assert len(scored) <= 3 * 120


def test_copier_answers_as_the_nearest_training_prompt():
    train = [_row("Where is my blue tent?", "tent"), _row("How long is the rope?", "rope")]
    rows = [_row("Where is my green tent?", "?"), _row("How long is a rope?", "?"), _row("12345", "?")]
    assert copied_answers(rows, train, "otherwise") == ["tent", "rope", "otherwise"]


def test_validation_decides_whether_vectors_count():
    train = [_row("aaaaaa one", "x"), _row("bbbbbb two", "y")]
    valid = [_row("pppppp", "y"), _row("qqqqqq", "x")]
    test = [_row("rrrrrr", "?")]
    vectors = {row.id: np.float32([one, 1 - one]) for row, one in zip((*train, *valid, *test), (1, 0, 0, 1, 0), strict=True)}
    known = AnsweredRows(train, valid)
    misleading = {row.id: np.float32([1, 0]) for row in (*train, *valid, *test)}
    assert free_arms(LABELS, "correct", known, test, misleading)[1] == "words"
    (_, copier), nearest = free_arms(LABELS, "correct", known, test, vectors)
    assert (nearest, [answer.output for answer in copier.answers]) == ("words_and_vectors", ["y"])
    assert free_arms(LABELS, "correct", AnsweredRows(train, []), test, vectors)[1] == "words"


def _splits(answers: list[dict[str, object]]) -> Splits:
    rows = tuple(_row(f"question {index}", json.dumps(answer), index) for index, answer in enumerate(answers))
    return Splits(rows[:-6], rows[-6:-3], rows[-3:])


@pytest.mark.parametrize(
    ("evaluation", "constant", "copier", "fields"),
    [
        ('forbid = ["never"]', 3, 3, ("/kind", "/of/ok")),
        ('correct = ["/kind"]', 2, 1, ("/of/ok",)),
        ('correct = ["fields"]', 0, 0, ()),
        ("", 0, 0, ()),
    ],
)
def test_free_rates_count_held_out_rows_and_name_fields_that_tell_answers_apart(evaluation, constant, copier, fields):
    recipe = parse(f'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\n{evaluation}')
    kinds = ["a", "a", "b"] * 8
    splits = _splits([{"kind": kind, "of": {"ok": index % 2 == 0}, "text": f"t{index}"} for index, kind in enumerate(kinds)])
    assert free_rates(recipe, splits) == FreeRates(constant, copier, 3, fields)
    pairs = parse('name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[method]\nkind = "dpo"')
    assert free_rates(pairs, splits) is None
    assert free_rates(recipe, replace(splits, train=())) is None


def test_answers_have_no_cost_and_only_desirable_answers_are_copied():
    def unpaired(answer: str, label: bool) -> Unpaired:
        return Unpaired(Location(Path("d"), 1), {}, (Message("user", "Where?"),), answer, label)

    rows = module._answered([unpaired("bad", False), unpaired("good", True)])
    assert [row.reference for row in rows] == ["good"]
    (constant, copier), _ = free_arms(LABELS, "correct", AnsweredRows(rows, []), [_row("Where is it?", "here")])
    assert (constant.name, copier.name) == ("constant", "copier")
    for arm in (constant, copier):
        (answer,) = arm.answers
        assert (answer.output, answer.ended, answer.answer_tokens, answer.seconds, answer.tokens) == ("good", "stop", 0, None, 0)


def test_of_arms_that_are_never_right_the_one_with_more_right_fields_is_the_strongest():
    recipe = parse('name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\ncorrect = ["/a", "/b"]\n')
    rows = evaluated_rows([_row("question", '{"a": 1, "b": 2}')])
    texts = {"base+prompt": "It is 1.", "base+kshot": '{"a": 1, "b": 3}', "base+grammar": '{"a": 2, "b": 3}'}
    answers = {arm: [Answer(rows[0].id, text, "stop")] for arm, text in texts.items()}
    found = strongest(Contract.from_recipe(recipe), recipe, rows, answers)
    assert found == {"arm": "base+kshot", "hits": dict.fromkeys(texts, 0), "rows": 1}
    del answers["base+kshot"]
    assert strongest(Contract.from_recipe(recipe), recipe, rows, answers)["arm"] == "base+grammar"  # it is valid JSON
