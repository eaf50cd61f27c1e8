"""The token limit of answers, and when an answer that repeats itself is ended before it."""

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_model import make_scripted

from mlxtune.data.rows import Conversation, Location, Message, Preference, Row, TextRow, Unpaired
from mlxtune.evaluation.answer_budget import AnswerBudget, answer_budget, answer_limits, longest_json, longest_repetition, loop_rule
from mlxtune.evaluation.answers import answer_statistics
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.outputs import AnswerOptions, generate_answers
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.models.template import TemplateSettings
from mlxtune.models.thoughts import LEAST, AnswerBuilder
from mlxtune.recipe import EvaluationSection

PLACE = Location(Path("d.jsonl"), 1)
QUESTION = (Message("user", "a question that is much longer than every answer"),)


def _words(count: int) -> str:
    return " ".join(["word"] * count)


def _budget(*rows: Row, room: int | None = None, schema: Any = None, section: EvaluationSection | None = None) -> AnswerBudget:
    return answer_budget(section or EvaluationSection(), rows, lambda text: len(text.split()), room, schema)


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
    schema, row = {"type": "string", "maxLength": 498}, _row(100)
    assert _budget(row, schema=schema) == AnswerBudget(200, 100, grammar_tokens=500)
    assert _budget(row, room=400, schema=schema) == AnswerBudget(200, 100, 400, 400)
    assert _budget(row, room=150, schema=schema) == AnswerBudget(150, 100, 150)
    assert _budget(row, room=600, schema=schema) == AnswerBudget(200, 100, grammar_tokens=500)
    assert _budget(row, schema={"type": "string"}) == _budget(row, schema={"const": "short"}) == AnswerBudget(200, 100)
    assert _budget(_row(1), schema=schema | {"maxLength": 10**6}).grammar_tokens == 8 * 65
    assert _budget(row, room=5, schema=schema, section=EvaluationSection(max_tokens=7)) == AnswerBudget(7)


def test_limits_follow_from_the_stored_facts():
    for longest, room, length in product([1, 100, 400], [None, 50, 150, 300, 450, 700, 5000], [None, 10, 400, 10**6]):
        schema = {"type": "string"} | ({"maxLength": length} if length else {})
        budget = _budget(_row(longest), room=room, schema=schema)
        limits = answer_limits(EvaluationSection(), budget.longest_reference or 0, schema, budget.room)
        assert limits == (budget.max_tokens, budget.grammar_tokens or budget.max_tokens), (longest, room, length)


BOOLEANS = {"type": "array", "items": {"type": "boolean"}}
LINE = {
    "type": "object",
    "properties": {"sku": {"type": "string", "maxLength": 8}, "quantity": {"type": "integer"}},
    "additionalProperties": False,
}
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"lines": {"type": "array", "maxItems": 30, "items": {"$ref": "#/$defs/line"}}},
    "additionalProperties": False,
    "$defs": {"line": LINE},
}
REPLY = {"type": "object", "properties": {"reply": {"type": "string"}}}
LINES = json.dumps({"lines": [{"sku": "A1", "quantity": 1}] * 12})
LOOP = "We are sorry. " * 20
SHORT = {"type": "string", "maxLength": 400}
TAGS = json.dumps({"tags": "O " * 60})


TEMPLATE = "{% for message in messages %}{{ message.content + '>' }}{% endfor %}"


def _encode(text: str) -> list[int]:
    return list(map(ord, text))


def _ends_early(answer: str, references: list[str | None], schema: Any = None) -> bool:
    rule = loop_rule(references, SimpleNamespace(encode=lambda text, **_: _encode(text)), schema)
    builder = AnswerBuilder(lambda tokens: "".join(map(chr, tokens)), [], 10_000, loops=rule)
    return any(builder.add(token) for token in _encode(answer))


@pytest.mark.parametrize(
    "answer",
    ["0 " * 40, json.dumps([True] * 20), LINES, " ".join(["O"] * 30 + ["B-PER", "I-PER"] + ["O"] * 40)],
    ids=["zeros", "booleans", "order lines", "tags"],
)
def test_repetition_in_a_reference_is_allowed(answer):
    assert _ends_early(answer, [None, "", "yes"])
    assert not _ends_early(answer, ["yes", answer])
    assert not _ends_early(answer, [answer[:-8]])
    assert _ends_early("0 " * 500, [answer])


@pytest.mark.parametrize(
    ("answer", "schema"),
    [
        (json.dumps([True] * 20), BOOLEANS),
        (json.dumps([True] * 20), BOOLEANS | {"maxItems": 20}),
        (json.dumps([0] * 40), {"type": "array", "maxItems": 40, "items": {"type": "integer"}}),
        (json.dumps(["O"] * 40), {"type": "array", "items": {"enum": ["O", "B-PER"]}}),
        (LINES, ORDER),
        (LINES, {"type": "object"}),
        (json.dumps({"reply": LOOP}), {**REPLY, "properties": {"reply": {"type": "string", "maxLength": 300}}, "additionalProperties": False}),
        (TAGS, {"properties": {"tags": SHORT}}),
        (TAGS, {"type": "object", "properties": {"tags": SHORT, "note": {"type": "string"}}, "additionalProperties": False}),
        (TAGS, {"type": "object", "additionalProperties": SHORT}),
        (TAGS, {"properties": {"tags": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/short"}]}}, "$defs": {"short": SHORT}}),
        (TAGS, {"properties": {"tags": {"allOf": [{"$ref": "#/$defs/short"}]}}, "$defs": {"short": SHORT}}),
        (TAGS, {"properties": {"tags": {"enum": ["O " * 60, "none"]}}}),
        (json.dumps({"rows": [1, {"id": "a", "tags": "O " * 60}]}), {"properties": {"rows": {"items": {"properties": {"tags": SHORT}}}}}),
        (json.dumps({"note": "\n" * 300}), {"properties": {"note": SHORT}}),
        (json.dumps([True] * 20, indent=8), BOOLEANS | {"maxItems": 20}),
        (json.dumps(["ab " * 20] * 6), {"type": "array", "items": SHORT}),
    ],
    ids=range(17),
)  # fmt: skip
def test_repetition_that_the_schema_allows_is_allowed(answer, schema):
    assert _ends_early(answer, [])
    assert not _ends_early(answer, [], schema)


@pytest.mark.parametrize(
    ("answer", "schema"),
    [
        (LOOP, BOOLEANS),
        ("```json\n" + LINES, ORDER),
        (json.dumps({"reply": LOOP}), REPLY),
        (json.dumps([True] * 60), BOOLEANS | {"maxItems": 20}),
        ("[]" + "\n" * 99, BOOLEANS),
        (json.dumps({"note": "O " * 60}), {"properties": {"tags": SHORT, "note": {"type": "string"}}}),
        (json.dumps({"tags": "O " * 250}), {"properties": {"tags": SHORT}}),
        (json.dumps({"O " * 60: 1}), {"additionalProperties": SHORT}),
        (TAGS, {"properties": {"tags": {"anyOf": [{"type": "string"}, SHORT]}}}),
        (TAGS, {"properties": {"tags": {"type": "boolean"}}}),
    ],
    ids=[
        "prose",
        "fence",
        "string without a limit",
        "too long",
        "whitespace",
        "other field",
        "too long a field",
        "name",
        "any",
        "boolean",
    ],
)
def test_other_repetition_ends_an_answer_despite_a_schema(answer, schema):
    assert _ends_early(answer, [], schema)


def test_longest_repetition_is_what_the_detector_counts():
    assert longest_repetition([]) == longest_repetition([[]]) == longest_repetition([[1, 2], [1, 2]]) == 0
    assert longest_repetition([[1] * LEAST]) == 0
    assert longest_repetition([[7, *[1] * 50, 7], [1, 2] * 20, list(range(90)) * 2]) == 49
    assert longest_repetition([list(range(40)) * 3]) == 80


@pytest.mark.parametrize(
    ("schema", "longest"),
    [
        (ORDER, len('{"lines": []}') + 2 + 30 * (2 + len('{"sku": "", "quantity": }') + 2 + 8 + 24)),
        ({"enum": ["a", "bcd", None]}, 5),
        ({"const": {"a": 1}}, 8),
        ({"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]}, 12),
        ({"type": ["null", "boolean"]}, 5),
        ({"type": "array", "maxItems": 0}, 2),
        (BOOLEANS, None),
        (REPLY, None),
        ({"type": "object"}, None),
        ({}, None),
        (True, None),
        ({"$ref": "#"}, None),
        ({"$ref": "https://example.com/schema"}, None),
    ],
)
def test_longest_json_of_a_schema(schema, longest):
    assert longest_json(schema) == longest


@pytest.mark.parametrize(
    ("reference", "options", "ended"),
    [("ok", {}, "loop"), ("0" * 40, {}, "length"), ("ok", {"stop_loops": False}, "length"), ("ok", {"schema": BOOLEANS}, "loop")],
)
def test_evaluation_follows_the_rule(tmp_path, reference, options, ended):
    loaded = load(resolve(str(make_scripted(tmp_path / "model", TEMPLATE, {">": "0", "0": "0"}))))
    row = Conversation(Location(Path("d.jsonl"), 1), {}, (Message("user", "Count"), Message("assistant", reference)))
    answers = generate_answers(
        Arm("base"), loaded, [row], AnswerOptions(TemplateSettings(), 60, 8, 2, tmp_path, **options), lambda of: lambda done, total: None,
        score_references=False,
    )  # fmt: skip
    assert answers.answers[0].ended == ended


@pytest.mark.parametrize(
    ("limit", "max_length", "others", "ended"),
    [("auto", 120, {}, "stop"), ("auto", 40, {}, "stop"), ("short", 120, {}, "grammar"), ("auto", 5000, {}, "grammar"),
     ("auto", 120, {"note": {"type": "string"}}, "grammar"), ("short", None, {}, "length")],
)  # fmt: skip
def test_schema_ends_a_loop_under_a_grammar(tmp_path, limit, max_length, others, ended):
    """The limit of other answers is 78 tokens here, of a byte each."""
    loaded = load(resolve(str(make_scripted(tmp_path / "model", TEMPLATE, {">": "{", '"': "a", "a": "a"}))))
    row = Conversation(Location(Path("d.jsonl"), 1), {}, (Message("user", "Hi"), Message("assistant", '{"reply":"ok"}')))
    reply = {"type": "string"} | ({"maxLength": max_length} if max_length else {})
    schema = {"type": "object", "properties": {"reply": reply} | others, "required": ["reply"], "additionalProperties": False}
    budget = answer_budget(EvaluationSection(), [row], len, 2000, schema)
    widest = None if others else {120: 135, 5000: 8 * 78, 40: None, None: None}[max_length]
    assert (budget.max_tokens, budget.grammar_tokens) == (78, widest)
    tokens = 60 if limit == "short" else budget.grammar_tokens or budget.max_tokens
    answers = generate_answers(
        Arm("base+grammar", schema=schema), loaded, [row], AnswerOptions(TemplateSettings(), tokens, 8, 2, tmp_path, schema=schema),
        lambda of: lambda done, total: None, score_references=False,
    ).answers  # fmt: skip
    assert answers[0].ended == ended
    statistics = answer_statistics(answers)
    assert (statistics.cut, statistics.loops) == (ended == "grammar", ended == "length")
    if ended == "stop":
        assert json.loads(answers[0].output) == {"reply": "a" * (max_length or 0)}
