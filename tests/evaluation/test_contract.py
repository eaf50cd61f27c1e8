from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.evaluation.contract import LABELS, Contract
from mlxtune.evaluation.scorers.schema_valid import Schema
from mlxtune.recipe import Disclaimer, load, parse

ROOT = Path(__file__).parents[2]
SCHEMA = Schema({"type": "object", "required": ["a"]})


@pytest.mark.parametrize(
    ("contract", "metrics"),
    [
        (Contract(), ["json", "contract"]),
        (Contract(SCHEMA), ["json", "schema", "contract"]),
        (Contract(forbid=["x"]), ["forbidden", "contract"]),
        (Contract(disclaimers=[Disclaimer("d")]), ["disclaimer", "contract"]),
        (Contract(SCHEMA, [Disclaimer("d")], ["x"]), ["json", "schema", "disclaimer", "forbidden", "contract"]),
    ],
)
def test_metrics_are_those_that_were_asked_for(contract, metrics):
    assert list(contract.score("text")) == metrics
    assert set(metrics) <= set(LABELS)


def test_whole_contract_holds_only_when_everything_does():
    contract = Contract(SCHEMA, [Disclaimer("d.")], ["Northpeak"])
    assert all(score.holds for score in contract.score(json.dumps({"a": "d."})).values())
    for output, broken in [
        ("d.", "json"),
        ('{"b": "d."}', "schema"),
        ('{"a": 1}', "disclaimer"),
        ('{"a": "d. Northpeak"}', "forbidden"),
    ]:
        scores = contract.score(output)
        assert not scores[broken].holds
        assert not scores["contract"].holds
        assert scores["contract"] == next(score for score in scores.values() if not score.holds)


def test_cut_off_output_is_classed_so():
    assert Contract().score('{"a": "b', ended="length")["contract"].kind == "cut off"


def test_recipe_gives_its_contract():
    contract = Contract.of(load(ROOT / "recipes" / "support-json.toml"))
    assert contract.schema
    assert len(contract.disclaimers) == 2
    assert list(contract.forbid) == ["Northpeak"]


def test_schema_that_cannot_be_used_is_an_input_error(tmp_path):
    text = 'name = "n"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\nschema = "s.json"\n'
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
)
def test_any_output_gets_every_score(output):
    scores = Contract(SCHEMA, [Disclaimer("d")], ["x"]).score(output, reference=output)
    assert not scores["contract"].holds
