import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxtune.core.errors import InputError
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.report_builder import metric_rates
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.registry import FORMS, LABELS
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.recipe import Disclaimer, EvaluationSection, Length, Phrase, load, parse

ROOT = Path(__file__).parents[2]
SCHEMA = SchemaValidator({"type": "object", "required": ["a"]})
RECIPE = 'name = "n"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\n'
JSON = ["json", *FORMS]


def contract_of(schema: SchemaValidator | None = None, **section: Any) -> Contract:
    return Contract(EvaluationSection(**section), schema)


@pytest.mark.parametrize(
    ("contract", "metrics"),
    [
        (Contract(), [*JSON, "contract"]),
        (Contract(schema=SCHEMA), [*JSON, "schema", "contract"]),
        (contract_of(forbid=["x"]), ["forbidden", "contract"]),
        (contract_of(length=Length(max=5)), ["length", "contract"]),
        (contract_of(pattern="x$"), ["pattern", "contract"]),
        (contract_of(disclaimers=[Disclaimer("d")]), ["disclaimer", "contract"]),
        (contract_of(disclaimers=[Disclaimer("d", match="fuzzy")]), ["disclaimer", "disclaimer_fuzzy", "contract"]),
        (
            contract_of(SCHEMA, disclaimers=[Disclaimer("d")], forbid=["x"]),
            [*JSON, "schema", "disclaimer", "forbidden", "contract"],
        ),
        (contract_of(correct=["/a"]), [*JSON, "contract", "correct"]),
        (contract_of(correct=["answer"]), ["correct"]),
    ],
)
def test_metrics_are_those_required(contract, metrics):
    assert list(contract.score(ModelAnswer("text", reference="text"))) == metrics
    assert set(metrics) <= set(LABELS)


def test_conditions_on_fields_that_no_reference_has_are_found():
    contract = contract_of(disclaimers=[Disclaimer("d", {"a": 1, "b": 2}), Disclaimer("e", unless={"c": 1})])
    texts = ('{"a": 2}', '[{"b": 1}]', "plain", None)
    assert contract.unknown_conditions([SimpleNamespace(reference=text) for text in texts]) == ["b", "c"]


def test_contract_passes_only_when_every_required_metric_does():
    contract = contract_of(SCHEMA, disclaimers=[Disclaimer("d.")], forbid=["Northpeak"], length=Length(max=30))
    scores = contract.score(ModelAnswer(json.dumps({"a": "d."})))
    assert all(scores[metric].passed for metric in (*contract.required_metrics, "contract"))
    assert contract.required_metrics == ["json", "schema", "disclaimer", "forbidden", "length"]
    for output, broken in [
        ("d.", "json"),
        ('{"b": "d."}', "schema"),
        ('{"a": 1}', "disclaimer"),
        ('{"a": "d. Northpeak"}', "forbidden"),
        ('{"a": "d. It goes on and on and on"}', "length"),
        ('```\n{"a": "d."}\n```', "json"),
    ]:
        scores = contract.score(ModelAnswer(output))
        assert not scores[broken].passed
        assert not scores["contract"].passed
        first = next(scores[metric] for metric in scores if metric in contract.required_metrics and not scores[metric].passed)
        assert scores["contract"] == first


def test_fuzzy_rule_is_judged_fuzzy_and_reported_strict():
    contract = contract_of(disclaimers=[Disclaimer("Only general guidance.", match="fuzzy"), Disclaimer("Take care.")])
    near = contract.score(ModelAnswer("Only generel guidance. Take care."))
    assert [near[name].passed for name in ("disclaimer", "disclaimer_fuzzy", "contract")] == [False, True, True]
    other = contract.score(ModelAnswer("Only general guidance. Tale care."))  # the second rule does not use fuzzy matching
    assert [other[name].passed for name in ("disclaimer", "disclaimer_fuzzy", "contract")] == [False, False, False]
    assert "disclaimer" not in contract.required_metrics


def test_reference_rates_count_only_rows_with_reference():
    contract = contract_of(correct=["answer", "fields"])
    scored = [
        contract.score(ModelAnswer('{"a": 1, "b": 1}', reference=reference))
        for reference in (None, '{"a": 1, "b": 2}', '{"a":1,"b":1}')
    ]
    rates = {rate.metric: rate for rate in metric_rates(scored)}
    assert list(rates) == [*JSON, "contract", "correct"]
    assert (rates["json"].total, rates["correct"].hits, rates["correct"].total) == (3, 1, 2)
    assert rates["correct"].mean == pytest.approx((0 + 0.5 + 1 + 1) / 4)
    assert (rates["json"].mean, rates["contract"].mean) == (None, None)


def test_bundled_recipe_defines_contract():
    contract = Contract.from_recipe(load(ROOT / "recipes" / "support-json.toml"))
    assert contract.schema
    assert len(contract.section.disclaimers) == 2
    assert list(contract.section.forbid) == ["Northpeak"]
    assert contract.required_metrics == ["json", "schema", "disclaimer", "forbidden", "correct"]


def test_recipe_can_set_every_option():
    text = (
        RECIPE
        + """
disclaimers = ["Always.", { any_of = ["One way.", { text = "(?i)other ways?", match = "regex" }], match = "fuzzy", threshold = 85,
                            at = "/reply", when = { a = 1 }, unless = { b = 2 } }]
length = { max = 60, unit = "words", at = "/reply" }
correct = ["answer", "/a"]
""".replace("\n                            ", " ")
    )
    contract = Contract.from_recipe(parse(text))
    assert contract.section.length == Length(max=60, unit="words", at="/reply")
    assert contract.section.disclaimers[1].phrases == [Phrase("One way.", "fuzzy", 85), Phrase("(?i)other ways?", "regex", 85)]
    assert list(Contract.from_recipe(parse(text)).score(ModelAnswer("x", reference="x"))) == [
        *JSON, "disclaimer", "disclaimer_fuzzy", "length", "contract", "correct",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('disclaimers = [""]', "non-empty"),
        ("disclaimers = [{ when = { a = 1 } }]", "non-empty"),
        ('disclaimers = [{ text = "a", any_of = [" "] }]', "non-empty"),
        ('disclaimers = [{ text = "a", threshold = 101 }]', "must be above 0 and at most 100"),
        ('disclaimers = [{ text = "a", at = "reply" }]', "or a JSON Pointer"),
        ('disclaimers = [{ text = "a", match = "fuzy" }]', "match must be"),
        ("disclaimers = [5]", "a sentence or"),
        ("length = { min = 5, max = 3 }", "a range"),
        ("length = { max = -1 }", "a range"),
        ('length = { max = 1, unit = "tokens" }', "unit must be"),
        ('length = { max = 1, at = "reply" }', "/reply"),
        ('correct = ["bleu"]', "/category"),
    ],
)
def test_invalid_recipe_is_refused(line, words):
    with pytest.raises(InputError, match=words):
        parse(RECIPE + line)


@pytest.mark.parametrize("line", ['disclaimers = [{ text = "(", match = "regex" }]', 'pattern = "("'])
def test_unusable_pattern_is_input_error(line):
    with pytest.raises(InputError, match="Invalid pattern"):
        Contract.from_recipe(parse(RECIPE + line))


def test_unusable_schema_is_input_error(tmp_path):
    text = RECIPE + 'schema = "s.json"\n'
    with pytest.raises(InputError, match="does not exist"):
        Contract.from_recipe(parse(text, folder=tmp_path))
    (tmp_path / "s.json").write_text('{"type": 5}')
    with pytest.raises(InputError, match="is invalid"):
        Contract.from_recipe(parse(text, folder=tmp_path))


@pytest.mark.parametrize(
    "output",
    [
        "",
        "[" * 100_000,
        '"\\ud800"',
        "\ud800",
        "9" * 10_000,
        "\x00" * 10,
        '{"a": 1e999}',
        '"' + '\\"' * 1000,
        "[" * 500 + "]" * 500,
    ],
    ids=range(9),
)
def test_any_output_gets_every_score(output):
    contract = contract_of(
        SCHEMA,
        disclaimers=[Disclaimer("d", match="fuzzy")],
        forbid=["x"],
        length=Length(max=1, at="/a"),
        correct=["answer", "fields", "number", "calls", "/a"],
    )
    scores = contract.score(ModelAnswer(output, reference=output, prompt=output))
    assert not scores["contract"].passed
    assert len(scores) == len(contract.metrics) + 1
