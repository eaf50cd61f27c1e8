"""The token limit of answers: derived from the references of the training and validation rows, and within the model's context."""

from itertools import product
from pathlib import Path

import pytest

from mlxtune.core.errors import RecipeError
from mlxtune.data.rows import Conversation, Location, Message, Preference, Row, TextRow, Unpaired
from mlxtune.evaluation.answer_budget import AnswerBudget, answer_budget, auto_limit, grammar_limit
from mlxtune.recipe import EvaluationSection, parse

PLACE = Location(Path("d.jsonl"), 1)
QUESTION = (Message("user", "a question that is much longer than every answer"),)


def _words(count: int) -> str:
    return " ".join(["word"] * count)


def _budget(*rows: Row, room: int | None = None, section: EvaluationSection | None = None) -> AnswerBudget:
    return answer_budget(section or EvaluationSection(), rows, lambda text: len(text.split()), room)


def _row(words: int) -> Conversation:
    return Conversation(PLACE, {}, (*QUESTION, Message("assistant", _words(words))))


@pytest.mark.parametrize(("longest", "limit"), [(1, 65), (64, 128), (65, 130), (112, 224)])
def test_limit_is_twice_the_longest_reference_and_at_least_64_tokens_more(longest, limit):
    assert _budget(_row(1), _row(longest), _row(1)) == AnswerBudget(limit, longest)


def test_good_answers_of_every_kind_of_row_count():
    rows = [
        Preference(PLACE, {}, QUESTION, _words(30), _words(500)),  # the rejected answer is no reference
        Unpaired(PLACE, {}, QUESTION, _words(40), True),
        Unpaired(PLACE, {}, QUESTION, _words(500), False),
        TextRow(PLACE, {}, _words(500)),
    ]
    assert _budget(*rows).longest_reference == 40
    assert _budget(rows[2], rows[3]).max_tokens == 256


def test_limit_stays_within_the_context_of_the_model():
    assert _budget(_row(100), room=150) == AnswerBudget(150, 100, 150)
    assert _budget(_row(100), room=200) == AnswerBudget(200, 100)
    assert _budget(_row(100), room=-9).max_tokens == 1


def test_answers_under_a_grammar_get_what_their_schema_can_need():
    schema = {"type": "string", "maxLength": 498}
    rows = [_row(100)]
    count = lambda text: len(text.split())  # noqa: E731
    assert answer_budget(EvaluationSection(), rows, count, schema=schema) == AnswerBudget(200, 100, grammar_tokens=500)
    assert answer_budget(EvaluationSection(), rows, count, 400, schema) == AnswerBudget(200, 100, 400, 400)
    assert answer_budget(EvaluationSection(), rows, count, 150, schema) == AnswerBudget(150, 100, 150)
    assert answer_budget(EvaluationSection(), rows, count, 600, schema) == AnswerBudget(200, 100, grammar_tokens=500)
    assert answer_budget(EvaluationSection(), rows, count, schema={"type": "string"}) == AnswerBudget(200, 100)
    assert answer_budget(EvaluationSection(), rows, count, schema={"const": "short"}) == AnswerBudget(200, 100)
    assert answer_budget(EvaluationSection(), [_row(1)], count, schema=schema | {"maxLength": 10**6}).grammar_tokens == 8 * 65
    assert answer_budget(EvaluationSection(max_tokens=7), rows, count, schema=schema) == AnswerBudget(7)


def test_limits_follow_from_the_stored_facts():
    for longest, room, length in product([1, 100, 400], [None, 50, 150, 300, 450, 700, 5000], [None, 10, 400, 10**6]):
        schema = {"type": "string"} | ({"maxLength": length} if length else {})
        budget = answer_budget(EvaluationSection(), [_row(longest)], lambda text: len(text.split()), room, schema)
        limit = auto_limit(budget.longest_reference or 0, budget.room)
        limits = (limit, grammar_limit(limit, schema, budget.room))
        assert limits == (budget.max_tokens, budget.grammar_tokens or budget.max_tokens), (longest, room, length)


def test_number_in_the_recipe_takes_precedence():
    assert _budget(_row(100), room=5, section=EvaluationSection(max_tokens=7)) == AnswerBudget(7)


@pytest.mark.parametrize(("value", "valid"), [("1", True), ('"auto"', True), ("0", False), ('"all"', False), ("true", False)])
def test_recipe_accepts_auto_or_a_positive_number(value, valid):
    text = f'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\nmax_tokens = {value}\n'
    if valid:
        parse(text)
    else:
        with pytest.raises(RecipeError, match="max_tokens"):
            parse(text)
