from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.evaluation.contract import FORMS, LABELS, Contract
from mlxtune.evaluation.report import rates
from mlxtune.evaluation.scorers import Answer
from mlxtune.evaluation.scorers.schema_valid import Schema
from mlxtune.recipe import Disclaimer, Length, Phrase, load, parse

ROOT = Path(__file__).parents[2]
SCHEMA = Schema({"type": "object", "required": ["a"]})
RECIPE = 'name = "n"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\n'
JSON = ["json", *FORMS]


@pytest.mark.parametrize(
    ("contract", "metrics"),
    [
        (Contract(), [*JSON, "contract"]),
        (Contract(SCHEMA), [*JSON, "schema", "contract"]),
        (Contract(forbid=["x"]), ["forbidden", "contract"]),
        (Contract(length=Length(max=5)), ["length", "contract"]),
        (Contract(disclaimers=[Disclaimer("d")]), ["disclaimer", "contract"]),
        (Contract(disclaimers=[Disclaimer("d", match="fuzzy")]), ["disclaimer", "disclaimer_fuzzy", "contract"]),
        (Contract(SCHEMA, [Disclaimer("d")], ["x"]), [*JSON, "schema", "disclaimer", "forbidden", "contract"]),
        (Contract(reference=["fields", "exact"]), [*JSON, "exact", "fields", "contract"]),
    ],
)
def test_metrics_are_those_that_were_asked_for(contract, metrics):
    assert list(contract.score(Answer("text", reference="text"))) == metrics
    assert set(metrics) <= set(LABELS)


def test_whole_contract_holds_only_when_everything_that_it_asks_for_does():
    contract = Contract(SCHEMA, [Disclaimer("d.")], ["Northpeak"], Length(max=30), reference=["exact"])
    scores = contract.score(Answer(json.dumps({"a": "d."}), reference="other"))
    assert all(scores[metric].holds for metric in contract.asked)
    assert not scores["fenced"].holds
    assert not scores["exact"].holds
    assert contract.asked == {"json", "schema", "disclaimer", "forbidden", "length", "contract"}
    for output, broken in [
        ("d.", "json"),
        ('{"b": "d."}', "schema"),
        ('{"a": 1}', "disclaimer"),
        ('{"a": "d. Northpeak"}', "forbidden"),
        ('{"a": "d. It goes on and on and on"}', "length"),
        ('```\n{"a": "d."}\n```', "json"),
    ]:
        scores = contract.score(Answer(output))
        assert not scores[broken].holds
        assert not scores["contract"].holds
        first = next(scores[metric] for metric in scores if metric in contract.asked and not scores[metric].holds)
        assert scores["contract"] == first


def test_fuzzy_rule_is_asked_fuzzily_and_reported_strictly():
    contract = Contract(disclaimers=[Disclaimer("Only general guidance.", match="fuzzy"), Disclaimer("Take care.")])
    near = contract.score(Answer("Only generel guidance. Take care."))
    assert [near[name].holds for name in ("disclaimer", "disclaimer_fuzzy", "contract")] == [False, True, True]
    other = contract.score(Answer("Only general guidance. Tale care."))  # the second rule is not fuzzy
    assert [other[name].holds for name in ("disclaimer", "disclaimer_fuzzy", "contract")] == [False, False, False]
    assert "disclaimer" not in contract.asked


def test_rates_against_a_reference_are_over_the_rows_that_have_one():
    contract = Contract(reference=["exact", "fields"])
    scored = [
        contract.score(Answer('{"a": 1, "b": 1}', reference=reference)) for reference in (None, '{"a": 1, "b": 2}', '{"a":1,"b":1}')
    ]
    found = {rate.metric: rate for rate in rates(scored)}
    assert list(found) == [*JSON, "exact", "fields", "contract"]
    assert (found["json"].total, found["exact"].hits, found["exact"].total) == (3, 1, 2)
    assert (found["fields"].hits, found["fields"].mean) == (1, pytest.approx(0.75))
    assert found["json"].mean is None


def test_cut_off_output_is_classed_so():
    assert Contract().score(Answer('{"a": "b', "length"))["contract"].kind == "cut off"


def test_recipe_gives_its_contract():
    contract = Contract.of(load(ROOT / "recipes" / "support-json.toml"))
    assert contract.schema
    assert len(contract.disclaimers) == 2
    assert list(contract.forbid) == ["Northpeak"]
    assert contract.asked == {"json", "schema", "disclaimer", "forbidden", "contract"}


def test_recipe_may_say_all_of_it():
    text = (
        RECIPE
        + """
disclaimers = ["Always.", { any_of = ["One way.", { text = "(?i)other ways?", match = "regex" }], match = "fuzzy", threshold = 85,
                            at = "/reply", when = { a = 1 }, unless = { b = 2 } }]
length = { max = 60, unit = "words", at = "/reply" }
reference = ["exact", "fields"]
fields = ["/a"]
""".replace("\n                            ", " ")
    )
    contract = Contract.of(parse(text))
    assert contract.length == Length(max=60, unit="words", at="/reply")
    assert contract.disclaimers[1].phrases == [Phrase("One way.", "fuzzy", 85), Phrase("(?i)other ways?", "regex", 85)]
    assert list(Contract.of(parse(text)).score(Answer("x", reference="x"))) == [
        "disclaimer", "disclaimer_fuzzy", "length", "exact", "fields", "contract",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('disclaimers = [""]', "none of them empty"),
        ("disclaimers = [{ when = { a = 1 } }]", "none of them empty"),
        ('disclaimers = [{ text = "a", any_of = [" "] }]', "none of them empty"),
        ('disclaimers = [{ text = "a", threshold = 101 }]', "threshold above 0"),
        ('disclaimers = [{ text = "a", at = "reply" }]', "pointer of a field"),
        ('disclaimers = [{ text = "a", match = "fuzy" }]', "match must be"),
        ("disclaimers = [5]", "a sentence or"),
        ("length = { min = 5, max = 3 }", "a range"),
        ("length = { max = -1 }", "a range"),
        ('length = { max = 1, unit = "tokens" }', "unit must be"),
        ('length = { max = 1, at = "reply" }', "/reply"),
        ('reference = ["bleu"]', "reference must be"),
        ('fields = ["a"]', "/category"),
    ],
)
def test_recipe_that_cannot_mean_anything_is_refused(line, words):
    with pytest.raises(InputError, match=words):
        parse(RECIPE + line)


def test_pattern_that_cannot_be_used_is_an_input_error():
    with pytest.raises(InputError, match="The pattern"):
        Contract.of(parse(RECIPE + 'disclaimers = [{ text = "(", match = "regex" }]'))


def test_schema_that_cannot_be_used_is_an_input_error(tmp_path):
    text = RECIPE + 'schema = "s.json"\n'
    with pytest.raises(InputError, match="does not exist"):
        Contract.of(parse(text, folder=tmp_path))
    (tmp_path / "s.json").write_text('{"type": 5}')
    with pytest.raises(InputError, match="cannot be used"):
        Contract.of(parse(text, folder=tmp_path))


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
    contract = Contract(SCHEMA, [Disclaimer("d", match="fuzzy")], ["x"], Length(max=1, at="/a"), ["exact", "fields"])
    scores = contract.score(Answer(output, reference=output, prompt=output))
    assert not scores["contract"].holds
    assert len(scores) == len(contract.metrics) + 1
