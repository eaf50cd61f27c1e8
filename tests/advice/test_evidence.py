"""What a workspace says: its data, its contract, and what was measured on held-out rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured import BAD, GOOD, measured
from scipy.stats import binomtest

from mlxtune.advice.evidence import Evidence, Measured, answering, gather
from mlxtune.advice.sample import is_sample, sample_name
from mlxtune.evaluation.report import FILE
from mlxtune.recipe import load

QUESTIONS = (
    "Where is my parcel?", "Do you ship to Norway?", "The kettle leaks.", "Can I pay by invoice?", "My code does not work.",
    "How long is the guarantee?", "I want to return a lamp.", "Is the blue rug in stock?", "Who repairs your clocks?",
    "My order came twice.", "Please delete my account.", "The chair has three legs.", "What does express cost?", "Are you open on Sunday?",
)  # fmt: skip


def shop(place: Path) -> Evidence:
    """What is found of the recipe that :func:`measured` wrote, after a fresh start with fourteen different questions."""
    recipe = load(place / "shop.toml")
    if "parcel number" in recipe.source.read_text():
        write(place, *QUESTIONS)
    return gather(place, recipe, "shop.toml")


def write(place: Path, *questions: str) -> None:
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": GOOD}] for text in questions]
    (place / "shop.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in turns))


def changed(folder: Path, copied: str, /, **facts: Any) -> Path:
    """A copy of the evaluation in ``folder``, called ``copied``, with other facts."""
    copy = folder.parent / copied
    copy.mkdir()
    report = json.loads((folder / FILE).read_text())
    (copy / FILE).write_text(json.dumps(report | {"facts": report["facts"] | facts}))
    (copy / "recipe.toml").write_text((folder / "recipe.toml").read_text())
    return copy


def test_data_and_contract_are_those_of_the_recipe(tmp_path: Path) -> None:
    measured(tmp_path)
    found = shop(tmp_path)
    assert (found.recipe, found.rows, found.groups, found.pairs, found.contract, found.prompted) == (
        "shop.toml",
        14,
        14,
        0,
        True,
        False,
    )
    assert found.held_out
    recipe = load(tmp_path / "shop.toml")
    assert gather(tmp_path, replace(recipe, evaluation=replace(recipe.evaluation, schema="", forbid=[]))).contract is False


def test_rows_that_ask_the_same_count_once(tmp_path: Path) -> None:
    measured(tmp_path)
    write(tmp_path, *QUESTIONS, *QUESTIONS[:5])
    assert (shop(tmp_path).rows, shop(tmp_path).groups) == (19, 14)


def test_too_few_rows_to_hold_any_out_are_told_and_no_error(tmp_path: Path) -> None:
    measured(tmp_path)
    write(tmp_path, *QUESTIONS[:2])
    found = shop(tmp_path)
    assert (found.groups, found.held_out) == (2, None)
    assert "No rows are held out: 2 rows are too few" in found.passed[0]


def test_pairs_are_counted(tmp_path: Path) -> None:
    measured(tmp_path, pairs=True)
    assert gather(tmp_path, load(tmp_path / "shop.toml")).pairs == 14


def test_each_arm_has_its_rate_and_where_it_is_from(tmp_path: Path) -> None:
    folder = measured(tmp_path, base=[BAD, GOOD, BAD, BAD], **{"base+prompt": [GOOD, GOOD, BAD, GOOD]})
    found = shop(tmp_path)
    arm = found.arms["contract"]["base+prompt"]
    interval = binomtest(3, 4).proportion_ci(method="wilson")
    assert (arm.hits, arm.total, arm.percent, arm.by) == (3, 4, 75.0, folder.name)
    assert (arm.low, arm.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    facts = found.facts("contract", 90)
    assert (facts["base"], facts["prompt"], facts["kshot"], facts["best"], facts["gap"]) == (25.0, 75.0, None, 75.0, 15.0)
    assert found.named("contract")["best_said"] == "Your prompt alone"


def test_the_newest_measurement_of_an_arm_counts_and_a_sample_is_one(tmp_path: Path) -> None:
    folder = measured(tmp_path, base=[BAD, GOOD, BAD, BAD])
    recipe = load(tmp_path / "shop.toml")
    newer = changed(folder, "20261125-0900-shop-advice", name=sample_name(recipe.name))
    report = json.loads((newer / FILE).read_text())
    for rate in report["arms"][0]["rates"]:
        rate["hits"] = 4
    (newer / FILE).write_text(json.dumps(report))
    arm = shop(tmp_path).arms["contract"]["base"]
    assert (arm.hits, arm.by) == (4, newer.name)


@pytest.mark.parametrize("facts", [{"name": "another"}, {"base": "another"}])
def test_what_was_measured_of_something_else_does_not_count(tmp_path: Path, facts: dict[str, Any]) -> None:
    folder = measured(tmp_path, base=[BAD, GOOD, BAD, BAD])
    changed(folder, "20261125-0900-another", **facts)
    found = shop(tmp_path)
    assert found.arms["contract"]["base"].by == folder.name
    assert found.passed == ()


def test_an_evaluation_against_another_contract_is_passed_over_and_named(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    (tmp_path / "schema.json").write_text('{"type": "object", "required": ["answer"]}\n')
    found = shop(tmp_path)
    assert found.arms == {}
    assert found.passed == (f"{folder.name} asked for something else: the contract changed since.",)


def test_an_unfinished_evaluation_is_no_evidence(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    (folder / FILE).write_text("{")
    assert shop(tmp_path).arms == {}


def test_of_equal_arms_the_one_with_less_in_its_prompt_is_best() -> None:
    arms = {arm: Measured(arm, 9, 10, 0.6, 1.0, "e") for arm in ("base+kshot", "base", "base+prompt")}
    assert Evidence(arms={"contract": arms}).best("contract") == arms["base"]


def test_a_metric_that_no_evaluation_has_falls_back_to_the_contract() -> None:
    arms = {"contract": {"base": Measured("base", 1, 2, 0.0, 1.0, "e")}}
    assert Evidence(arms=arms).on("preference") == arms["contract"]
    assert Evidence().best("contract") is None


def test_a_tuned_arm_is_none_without_training() -> None:
    arms = {"contract": {"tuned": Measured("tuned", 9, 10, 0.6, 1.0, "e")}}
    assert Evidence(arms=arms).best("contract") is None


def test_how_long_an_answer_took_is_told_by_an_evaluation_that_asked_the_model(tmp_path: Path) -> None:
    folder = measured(tmp_path, base=[BAD, GOOD, BAD, BAD], tuned=[GOOD] * 4)  # the base from a cache, the other in 1.5 s
    recipe = load(tmp_path / "shop.toml")
    assert answering(tmp_path, recipe) == pytest.approx(1.5 / 4)
    assert answering(tmp_path, replace(recipe, model=replace(recipe.model, base="another"))) is None
    report = json.loads((folder / FILE).read_text())
    report["arms"][1]["cached"] = True
    (folder / FILE).write_text(json.dumps(report))
    assert answering(tmp_path, recipe) is None


def test_a_base_that_is_a_folder_is_known_by_its_whole_path(tmp_path: Path) -> None:
    folder = measured(tmp_path, base=[BAD, GOOD, BAD, BAD])
    changed(folder, "20261125-0900-shop", base=str(tmp_path / "m"))
    assert shop(tmp_path).arms["contract"]["base"].by == "20261125-0900-shop"


def test_a_long_name_leaves_room_for_what_a_sample_is_called() -> None:
    assert len(sample_name("a" * 64)) <= 64
    assert is_sample(sample_name("a" * 64))
